"""Requests that are refused unread: behind more work than their time allows, whatever stands in them."""

import gzip
import io
import json
import re
import socket
import threading
from http.client import HTTPConnection

import grpc
import pytest

from nlpdeploy.serve.request_log import RequestLog
from nlpdeploy.wire import codec_proto, oip
from support.asking import question
from support.engines import TinyEngine
from support.fronts import serving_fronts, until
from support.http_asks import call, json_request

PREDICT, INFER = "/v2/models/tiny/predict", "/v2/models/tiny/infer"
WAITING = 4000
HASTY = {"x_request_timeout_ms": "500"}
NO_JSON = b'{"text": "hello'


def send(port, body):
    """Ask, and don't wait."""
    connection = socket.create_connection(("127.0.0.1", port))
    content = json.dumps(body).encode()
    connection.sendall(f"POST {PREDICT} HTTP/1.1\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content)
    return connection


@pytest.fixture(scope="module")
def behind(tmp_path_factory):
    """A server whose engine runs one row, does not come back, and has thousands that wait; its request log."""
    stream = io.StringIO()
    log = RequestLog(stream, "json")
    engine = TinyEngine(gate=threading.Event())
    with serving_fronts(tmp_path_factory.mktemp("behind"), engine, requests=log) as fronts:
        fronts.log = stream
        asked = [send(fronts.http_port, {"text": "hello"})]
        assert until(
            lambda: fronts.metric("nlpdeploy_open_requests") == 1 and not fronts.metric("nlpdeploy_queue_rows")
        )
        asked.append(send(fronts.http_port, {"text": ["hello" + " a" * 13] * WAITING}))
        assert until(lambda: fronts.metric("nlpdeploy_queue_tokens") >= WAITING)
        for path in (PREDICT, INFER):  # addresses that were asked before
            assert call(fronts, "POST", path, {})[0] == 400
        yield fronts
        engine.gate.set()
        for connection in asked:
            connection.close()
    log.close()


def counted(fronts):
    return (
        fronts.metric("nlpdeploy_refusals_total", reason="deadline_forecast"),
        fronts.metric("nlpdeploy_request_seconds_count", outcome="Overloaded"),
    )


@pytest.mark.parametrize("path", [PREDICT, INFER])
def test_a_body_that_nobody_could_read_is_refused_like_any_other(behind, path):
    before = counted(behind)
    status, headers, content = call(behind, "POST", path, NO_JSON, **HASTY)
    assert (status, headers["error-kind"]) == (429, "Overloaded")
    assert int(headers["retry-after"]) >= 1
    assert int(headers["retry-after-ms"]) > 500
    assert "the deadline can't be met; found a wait of" in json.loads(content)["error"]
    assert counted(behind) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize("call_name", ["predict", "infer"])
def test_so_it_is_by_the_task_of_a_request_whose_place_was_taken_on_the_way(behind, call_name):
    path = f"/v2/models/tiny/versions/1/{call_name}"  # nobody has asked here: only the task looks
    before, lines = counted(behind), len(behind.log.getvalue().splitlines())
    assert call(behind, "POST", path, NO_JSON, **HASTY)[0] == 429
    assert counted(behind) == (before[0] + 1, before[1] + 1)
    assert until(lambda: len(behind.log.getvalue().splitlines()) > lines)
    assert (_last(behind)["status"], _last(behind)["model"]) == (429, "tiny")
    assert len(behind.log.getvalue().splitlines()) == lines + 1


def test_it_is_answered_in_the_form_of_a_refusal_after_reading(behind):
    unread = call(behind, "POST", PREDICT, {"text": "hello"}, **HASTY)
    read = call(behind, "POST", PREDICT, {"text": "hello [] "}, **HASTY)
    assert list(unread[1]) == list(read[1])
    digits = re.compile(rb"[\d.]+")
    assert digits.sub(b"", unread[2]) == digits.sub(b"", read[2])


def test_the_connection_stays_and_in_step(behind):
    connection = HTTPConnection("127.0.0.1", behind.http_port, timeout=20)
    told = []
    for path, body in ((PREDICT, NO_JSON), (INFER, NO_JSON), ("/v2/health/live", None), (PREDICT, NO_JSON)):
        connection.request("POST" if body else "GET", path, body, {"x-request-timeout-ms": "500"})
        answer = connection.getresponse()
        told.append((answer.status, answer.getheader("connection"), bool(answer.read())))
    connection.close()
    assert told == [(429, "keep-alive", True)] * 2 + [(200, "keep-alive", True), (429, "keep-alive", True)]


def test_what_was_sent_ahead_is_answered_in_order(behind):
    one = f"POST {PREDICT} HTTP/1.1\r\nx-request-timeout-ms: 500\r\ncontent-length: {len(NO_JSON)}\r\n\r\n".encode()
    last = b"GET /v2/health/live HTTP/1.1\r\nconnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", behind.http_port)) as connection:
        connection.sendall((one + NO_JSON) * 3 + last)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"429", b"429", b"429", b"200"]


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        (PREDICT, {"text": []}, HASTY, 200),  # no row waits for nothing
        (PREDICT, b'{"text": [', {"x_request_timeout_ms": "60000"}, 400),  # it has the time
        (PREDICT, NO_JSON, {}, 400),  # and so has this, by the server's own limit
        (PREDICT, NO_JSON, {"x_request_timeout_ms": "soon"}, 400),
        (PREDICT, gzip.compress(NO_JSON), HASTY | {"content_encoding": "gzip"}, 400),
        ("/v2/models/none/predict", NO_JSON, HASTY, 404),
        (INFER, b'{"parameters": {"priority": 1}', HASTY, 400),  # it would go before those that wait
        (INFER, b'{"parameters": {"\\u0070riority": 1}', HASTY, 400),
        (INFER, b'{"parameters": {"timeout": 1}', HASTY, 400),  # another deadline is another place
        (INFER, {**json_request(), "outputs": [{"name": "label"}]}, HASTY, 200),
    ],
)
def test_what_may_have_another_end_is_read(behind, path, body, headers, status):
    assert call(behind, "POST", path, body, **headers)[0] == status


def test_each_has_its_line_in_the_log(behind):
    call(behind, "POST", PREDICT, NO_JSON, **HASTY)
    assert until(lambda: len(behind.log.getvalue().splitlines()) and _last(behind).get("status") == 429)
    line = _last(behind)
    assert {name: line[name] for name in ("transport", "model", "version")} == {
        "transport": "http",
        "model": "tiny",
        "version": "1",
    }


def _last(fronts):
    return json.loads(fronts.log.getvalue().splitlines()[-1])


def rpc(fronts, message, timeout=0.5):
    with grpc.insecure_channel(f"127.0.0.1:{fronts.grpc_port}") as channel, pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(oip.METHODS["ModelInfer"].path)(message.SerializeToString(), timeout=timeout)
    return raised.value.code(), dict(raised.value.trailing_metadata())


def odd(**parameters):
    """A request that is wrong once it is read: its input has another name than the model's."""
    message = codec_proto.encode_request(question(["hello"], parameters=parameters))
    message.inputs[0].name = "words"
    return message


def test_over_grpc_too(behind):
    before = counted(behind)
    code, trailing = rpc(behind, odd())
    assert (code, trailing["error-kind"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Overloaded")
    assert int(trailing["retry-after-ms"]) > 500
    assert counted(behind) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize("parameters", [{"priority": 1}, {"timeout": 500_000}])
def test_over_grpc_who_names_place_or_deadline_is_read(behind, parameters):
    assert rpc(behind, odd(**parameters))[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_on_a_stream_too_and_the_stream_lives_on(behind):
    method = oip.METHODS["ModelStreamInfer"]
    with grpc.insecure_channel(f"127.0.0.1:{behind.grpc_port}") as channel:
        call = channel.stream_stream(method.path, response_deserializer=method.response.FromString)
        asked = iter([odd().SerializeToString(), odd(priority=1).SerializeToString()])
        told = sorted(answer.error_message.partition(";")[0] for answer in call(asked, timeout=0.5))
    assert told == ["inputs", "the deadline can't be met"]
