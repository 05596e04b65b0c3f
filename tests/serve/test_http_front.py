"""The HTTP front as clients nobody here wrote, and a curl, see it."""

import json
import socket
import threading
from http.client import HTTPConnection

import numpy as np
import pytest
import tritonclient.http as client

from nlpdeploy.serve.admission import Limits
from nlpdeploy.serve.served_model import Capacity
from support.engines import KEYWORDS, LABELS, TinyEngine
from support.fronts import serving_fronts, until
from support.http_asks import call, decoded, json_request, texts

INFER = "/v2/models/tiny/infer"
PREDICT = "/v2/models/tiny/predict"


@pytest.fixture(scope="module")
def fronts(tmp_path_factory):
    with serving_fronts(tmp_path_factory.mktemp("fronts")) as running:
        yield running


@pytest.fixture
def triton(fronts):
    with client.InferenceServerClient(f"127.0.0.1:{fronts.http_port}") as made:
        yield made


def test_live_ready_and_metadata(triton, fronts):
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("tiny")
    assert triton.is_model_ready("tiny", "1")
    assert triton.get_server_metadata()["name"] == "nlpdeploy"
    metadata = triton.get_model_metadata("tiny")
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert metadata["versions"] == ["1"]
    assert call(fronts, "GET", "/v2/models/tiny/versions/1")[0] == 200


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_answers_in_order_with_id_and_parameters_in_each_form(triton, binary_in, binary_out):
    outputs = [client.InferRequestedOutput(name, binary_data=binary_out) for name in ("label", "score")]
    result = triton.infer("tiny", texts(*KEYWORDS, binary=binary_in), outputs=outputs, request_id="r7")
    assert decoded(result.as_numpy("label")) == list(LABELS)
    assert result.as_numpy("score").dtype == np.float32
    response = result.get_response()
    assert response["id"] == "r7"
    assert response["parameters"]["engine"] == "tiny"


def test_without_named_outputs_the_default_ones_come_as_binary_tensors(triton):
    result = triton.infer("tiny", texts("人"))
    assert decoded(result.as_numpy("label")) == ["问候"]


def test_plain_json_is_answered_in_json_with_whole_characters_and_stage_times(fronts):
    status, headers, body = call(fronts, "POST", INFER, json_request("人", "hello"))
    answer = json.loads(body)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert answer["outputs"][0] == {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["问候", "hello"]}
    assert "问候".encode() in body
    assert [stage.partition(";")[0] for stage in headers["server-timing"].split(", ")] == [
        "encode",
        "queue",
        "infer",
        "decode",
    ]


def test_predict_answers_one_text_and_a_list(fronts):
    status, headers, body = call(fronts, "POST", PREDICT, {"text": "hello"})
    assert (status, json.loads(body)["label"]) == (200, "hello")
    assert headers["x-engine"] == "tiny"
    assert headers["x-bundle-digest"]
    assert "server-timing" in headers
    _, headers, body = call(fronts, "POST", "/v2/models/tiny/versions/1/predict", {"text": ["world", "a " * 40]})
    assert [prediction["label"] for prediction in json.loads(body)["predictions"]][:1] == ["world"]
    assert headers["x-truncated-rows"] == "1"


def test_metrics_are_prometheus_text(fronts):
    status, headers, body = call(fronts, "GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert b"nlpdeploy_request_seconds_bucket" in body


def test_an_address_in_absolute_form_is_the_same_address(fronts):
    connection = socket.create_connection(("127.0.0.1", fronts.http_port))
    connection.sendall(b"GET http://elsewhere:80/v2/health/live?x=/y HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert connection.makefile("rb").readline().split()[1] == b"200"
    connection.close()


def test_a_model_s_name_is_percent_decoded(tmp_path):
    with serving_fronts(tmp_path, name="客服") as fronts:
        status, _, body = call(fronts, "POST", "/v2/models/%E5%AE%A2%E6%9C%8D/predict", {"text": "hello"})
        assert (status, json.loads(body)["label"]) == (200, "hello")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "word"),
    [
        ("GET", "/", None, 404, "/"),
        ("GET", "/v2/models", None, 404, "/v2/models"),
        ("GET", "/v2/models/%ff", None, 404, "UTF-8"),
        ("GET", "/v2/models/tiny/weather", None, 404, "weather"),
        ("GET", "/v2/models/tiny/versions/9/config", None, 404, "9"),
        ("GET", "/v2/models/nobody/stats", None, 404, "nobody"),
        ("POST", "/v2/repository/index", b"[]", 400, "list"),
        ("PUT", "/v2/repository/index", b"{}", 405, "POST"),
        ("POST", "/v2/repository/models/tiny/load", b"", 404, "load"),
        ("GET", "/v2/models/nobody", None, 404, "nobody"),
        ("GET", "/v2/models/nobody/ready", None, 404, "nobody"),
        ("GET", "/v2/models/tiny/versions/9", None, 404, "9"),
        ("POST", "/v2/models/nobody/infer", json_request("a"), 404, "nobody"),
        ("POST", "/v2/models/nobody/infer", b"", 404, "nobody"),
        ("POST", "/v2/models/nobody/predict", b"", 404, "nobody"),
        ("GET", INFER, None, 405, "POST"),
        ("POST", "/v2/health/live", b"", 405, "GET"),
        ("DELETE", "/v2/models/tiny", None, 405, "GET"),
        ("POST", INFER, b"", 400, "nothing"),
        ("POST", INFER, b"\xff", 400, "UTF-8"),
        ("POST", INFER, b"[" * 100_000, 400, "levels"),
        ("POST", INFER, b'{"inputs": [{"name": "\\ud800"}]}', 400, "surrogate"),
        ("POST", INFER, {"inputs": []}, 400, "text"),
        ("POST", INFER, {**json_request("a"), "outputs": [{"name": "mood"}]}, 400, "mood"),
        ("POST", INFER, {**json_request("a"), "parameters": {"timeout": "soon"}}, 400, "timeout"),
        ("POST", PREDICT, b"text", 400, "JSON"),
        ("POST", PREDICT, {"text": 7}, 400, "text"),
        ("POST", PREDICT, {"words": "a"}, 400, "words"),
        ("POST", PREDICT, ["a"], 400, "list"),
        ("POST", PREDICT, b'{"text": "\\udfff"}', 400, "surrogate"),
    ],
)
def test_a_wrong_request_gets_its_status_and_one_line_of_json(fronts, method, path, body, status, word):
    got, headers, content = call(fronts, method, path, body)
    assert (got, headers["content-type"]) == (status, "application/json")
    error = json.loads(content)["error"]
    assert word in error
    assert "\n" not in error
    if status == 405:
        assert word in headers["allow"]


def test_more_addresses_than_are_remembered_are_each_answered(fronts):
    connection = HTTPConnection("127.0.0.1", fronts.http_port, timeout=20)
    for number in range(1100):
        for path, status in ((f"/v2/models/tiny/ready?{number}", 200), (f"/v2/models/m{number}/ready", 404)):
            connection.request("GET", path)
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == status
            assert status == 200 or f"m{number}" in content.decode()
    connection.close()


def test_head_is_answered_where_get_is(fronts):
    status, headers, body = call(fronts, "HEAD", "/v2/health/ready")
    assert (status, headers["content-length"], body) == (200, "14", b"")


def test_not_ready_is_503(tmp_path):
    with serving_fronts(tmp_path, opened=False) as fronts:
        assert call(fronts, "GET", "/v2/health/live")[0] == 200
        assert call(fronts, "GET", "/v2/health/ready")[0] == 503
        assert call(fronts, "GET", "/v2/models/tiny/ready")[0] == 503
        status, headers, _ = call(fronts, "POST", PREDICT, {"text": "a"})
        assert (status, headers["error-kind"]) == (503, "Unavailable")


def test_a_full_queue_is_429_with_a_hint(tmp_path):
    engine = TinyEngine(gate=threading.Event())
    with serving_fronts(tmp_path, engine, capacity=Capacity(limits=Limits(rows=1))) as fronts:
        statuses = []

        def ask():
            statuses.append(call(fronts, "POST", PREDICT, {"text": "a"})[0])

        asks = [threading.Thread(target=ask) for _ in range(2)]
        asks[0].start()
        assert until(lambda: engine.batches)
        asks[1].start()
        assert until(lambda: fronts.metric("nlpdeploy_queue_rows") == 1)
        status, headers, _ = call(fronts, "POST", PREDICT, {"text": "a"})
        assert (status, headers["error-kind"]) == (429, "Overloaded")
        assert int(headers["retry-after"]) >= 1
        engine.gate.set()
        for thread in asks:
            thread.join(20)
        assert statuses == [200, 200]


@pytest.mark.parametrize("by_parameter", [True, False])
def test_a_deadline_that_passes_is_504_while_the_engine_is_busy(tmp_path, by_parameter):
    with serving_fronts(tmp_path, TinyEngine(gate=threading.Event())) as fronts:
        body = json_request("hello")
        if by_parameter:
            body["parameters"] = {"timeout": 100_000}
            assert call(fronts, "POST", INFER, body)[0] == 504
        else:
            assert call(fronts, "POST", INFER, body, x_request_timeout_ms="100")[0] == 504


@pytest.mark.parametrize("value", ["0", "-5", "soon", "nan", "inf"])
def test_a_timeout_that_is_no_time_is_refused(fronts, value):
    status, _, body = call(fronts, "POST", PREDICT, {"text": "a"}, x_request_timeout_ms=value)
    assert status == 400
    assert b"x-request-timeout-ms" in body


def test_a_client_that_leaves_cancels_its_work(tmp_path):
    engine = TinyEngine(gate=threading.Event())
    with serving_fronts(tmp_path, engine) as fronts:
        body = json.dumps({"text": "hello"}).encode()
        with socket.create_connection(("127.0.0.1", fronts.http_port)) as connection:
            head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            assert until(lambda: engine.batches)
        assert until(lambda: fronts.metric("nlpdeploy_request_seconds_count", outcome="Cancelled") == 1)
        assert fronts.metric("nlpdeploy_open_requests") == 0


def test_an_engine_that_fails_is_500_and_never_a_nan(tmp_path):
    with serving_fronts(tmp_path, TinyEngine(nan_word="book")) as fronts:
        status, headers, body = call(fronts, "POST", PREDICT, {"text": "book"})
        assert (status, headers["error-kind"]) == (500, "EngineFailed")
        assert set(json.loads(body)) == {"error"}
        assert call(fronts, "POST", PREDICT, {"text": "hello"})[0] == 200


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        (PREDICT, b'{"text": "hel', {}),
        (PREDICT, {"text": "hello"}, {"x_request_timeout_ms": "soon"}),
        (INFER, b"[1, 2", {}),
        (INFER, {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "data": ["one"]}]}, {}),
        (INFER, json_request("hello"), {"content_encoding": "zstd"}),
    ],
)
def test_a_message_that_cannot_be_read_is_counted_among_the_model_s_requests_once(fronts, path, body, headers):
    counted = ("nlpdeploy_request_seconds_count", "nlpdeploy_unrouted_requests_total")
    before = [fronts.metric(name) for name in counted]
    wrong = fronts.metric(counted[0], outcome="InvalidInput")
    assert call(fronts, "POST", path, body, **headers)[0] == 400
    assert fronts.metric(counted[0], outcome="InvalidInput") == wrong + 1
    assert [fronts.metric(name) for name in counted] == [before[0] + 1, before[1]]
