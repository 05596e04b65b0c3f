"""The log: one object a line, one line a request, and a caller's text nowhere, whatever went wrong with it."""

import io
import json
import logging
import threading
from http.client import HTTPConnection

import grpc
import numpy as np
import pytest

from nlpdeploy.bundle.errors import Overloaded
from nlpdeploy.serve.http_messages import Request, Response
from nlpdeploy.serve.log import JsonLines, Lines, logging_to
from nlpdeploy.serve.request_log import LONGEST_ID, MOST_WAITING, RequestLog, note_model
from nlpdeploy.wire import codec_proto, oip
from nlpdeploy.wire.tensors import InferRequest, Tensor
from support.fronts import until
from support.server_process import server_process

SECRET = "Geheimnis4711"
INFER = "/v2/models/tiny/infer"
PREDICT = "/v2/models/tiny/predict"


def post(port, path, body, headers=None):
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode(), headers or {})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def metrics(port):
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def infer(port, text, *, model="tiny", request_id="", timeout=30.0):
    """The status's name of a gRPC request."""
    request = InferRequest(model, (Tensor("text", "BYTES", np.array([text.encode()], dtype=object)),), id=request_id)
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.max_send_message_length", -1)]) as channel:
        call = channel.unary_unary(oip.METHODS["ModelInfer"].path)
        try:
            call(
                codec_proto.encode_request(request).SerializeToString(), timeout=timeout, metadata=[("x-note", SECRET)]
            )
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


def tensor(text):
    return {"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]}


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_text_is_in_no_line_of_the_log_and_in_no_metric_however_its_request_ends(tmp_path, form):
    options = {
        "folder": tmp_path,
        "raise_word": "note",
        "log_format": form,
        "log_requests": "yes",
        "max_message_mib": 1,
    }
    with server_process(**options) as server:
        ready = server.wait_ready()
        http, rpc = ready["http_port"], ready["grpc_port"]
        told = [
            post(http, PREDICT, {"text": f"hello {SECRET}"}, {"x-note": SECRET}),
            post(http, INFER, {"id": "r1", "inputs": [tensor(f"hello {SECRET}")]}),
            post(http, PREDICT, {"text": f"note {SECRET}"}),
            post(http, PREDICT, f'{{"text": "{SECRET}'.encode()),
            post(http, PREDICT, {SECRET: SECRET}),
            post(http, INFER, {"inputs": [tensor(SECRET)], "outputs": [{"name": SECRET}]}),
            post(http, f"/v2/models/{SECRET}/predict", {"text": SECRET}),
            post(http, f"/{SECRET}", {"text": SECRET}),
            post(http, PREDICT, {"text": SECRET}, {"x-request-timeout-ms": SECRET}),
            post(http, PREDICT, {"text": SECRET}, {"x-request-timeout-ms": "0.001"}),
            post(http, PREDICT, {"text": SECRET * 200_000}),
            post(http, PREDICT, {"text": SECRET}, {"x-note": SECRET * 10_000}),
        ]
        assert told == [200, 200, 500, 400, 400, 400, 404, 404, 400, 504, 413, 431]
        said = [
            infer(rpc, f"hello {SECRET}", request_id="r2"),
            infer(rpc, f"note {SECRET}"),
            infer(rpc, SECRET, model=SECRET),
            infer(rpc, SECRET * 200_000),
        ]
        assert said == ["OK", "INTERNAL", "NOT_FOUND", "RESOURCE_EXHAUSTED"]
        shown = metrics(http)
        server.signal()
        status, lines = server.wait()
    assert status == 0
    assert SECRET not in lines
    assert SECRET not in shown
    if form == "text":
        return
    requests = [line for line in map(json.loads, lines.splitlines()) if line.get("event") == "request"]
    assert [line["status"] for line in requests if line["transport"] == "http"] == told
    assert [line["status"] for line in requests if line["transport"] == "grpc"] == [0, 13, 5]
    first = requests[0]
    assert (first["model"], first["version"], first["rows"], first["tokens"]) == ("tiny", "1", 1, 4)
    parts = sum(first[f"{stage}_ms"] for stage in ("encode", "queue", "infer", "decode"))
    assert 0 < parts <= first["ms"] + 0.01
    assert [line.get("id") for line in requests if "id" in line] == ["r1", "r2"]


def test_each_request_of_a_stream_has_its_line(tmp_path):
    text = (Tensor("text", "BYTES", np.array([f"hello {SECRET}".encode()], dtype=object)),)
    asked = [InferRequest("tiny", text, id="a"), InferRequest("nobody", text, id="b"), InferRequest("tiny", (), id="c")]
    with server_process(folder=tmp_path, log_format="json", log_requests="yes") as server:
        port = server.wait_ready()["grpc_port"]
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stream = channel.stream_stream(oip.METHODS["ModelStreamInfer"].path)
            sent = [codec_proto.encode_request(request).SerializeToString() for request in asked]
            assert len(list(stream(iter(sent), timeout=30))) == len(sent)
        server.signal()
        _, lines = server.wait()
    requests = [line for line in map(json.loads, lines.splitlines()) if line.get("event") == "request"]
    told = {(line["transport"], line["status"], line.get("model"), line.get("id")) for line in requests}
    assert told == {("grpc", 0, "tiny", "a"), ("grpc", 5, None, None), ("grpc", 3, "tiny", "c")}
    assert len(requests) == len(sent)
    assert SECRET not in lines


def test_an_exception_shows_its_type_and_stack_and_not_its_words():
    stream = io.StringIO()
    with logging_to(stream, "json"):
        try:
            try:
                raise KeyError(SECRET)
            except KeyError as error:
                raise ValueError(SECRET) from error
        except ValueError:
            logging.getLogger("somebody.else").exception("went wrong")
    line = json.loads(stream.getvalue())
    assert SECRET not in stream.getvalue()
    assert (line["level"], line["message"]) == ("error", "went wrong")
    assert "ValueError" in line["stack"]
    assert "KeyError" in line["stack"]
    assert "test_log.py" in line["stack"]
    with pytest.raises(ValueError, match="x") as raised:
        raise ValueError("x")
    record = logging.LogRecord("n", logging.ERROR, "p", 1, "two\nlines", (), (ValueError, raised.value, raised.tb))
    assert JsonLines().format(record).count("\n") == 0
    assert "two" in Lines().format(record)


def test_logging_is_as_it_was_afterwards():
    before = logging.getLogger().handlers[:]
    with logging_to(io.StringIO(), "text"):
        assert logging.getLogger().handlers != before
    assert logging.getLogger().handlers == before


class Slow(io.StringIO):
    """A log whose reader doesn't read until it is let."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()

    def write(self, text):
        self.gate.wait(10)
        return super().write(text)


async def _answer(request):
    note_model("tiny", "1", "x" * 1000 + "\n")
    if request.target == "/busy":
        raise Overloaded("full", retry_after=1.0)
    return Response(200, b"")


def drive(coroutine):
    """Run a coroutine that never waits."""
    with pytest.raises((StopIteration, Overloaded)):
        coroutine.send(None)


def test_a_reader_of_the_log_that_stops_reading_delays_no_answer_and_what_it_misses_is_counted():
    stream = Slow()
    log = RequestLog(stream, "json")
    handler = log.http(_answer)
    for _ in range(MOST_WAITING + 500):
        drive(handler(Request("POST", "/", {}, b"")))
    assert until(lambda: 0 < log.left_out <= 500)
    stream.gate.set()
    log.close(10)
    lines = stream.getvalue().splitlines()
    assert len(lines) == MOST_WAITING + 500 - log.left_out
    assert len(json.loads(lines[0])["id"]) == LONGEST_ID


def test_probes_and_scrapes_have_a_line_only_if_they_fail():
    stream = io.StringIO()
    log = RequestLog(stream, "text")
    handler = log.http(_answer)
    drive(handler(Request("GET", "/metrics", {}, b"")))
    drive(handler(Request("GET", "/busy", {}, b"")))
    log.refused_by_http(408)
    log.close(10)
    assert [line.split(" ms=")[0].split("REQUEST ")[1] for line in stream.getvalue().splitlines()] == [
        f"transport=http status=429 model=tiny version=1 id={'x' * LONGEST_ID}",
        "transport=http status=408",
    ]
