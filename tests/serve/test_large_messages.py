"""Large messages are taken apart beside the event loop: others are answered meanwhile, and small ones don't wait."""

import asyncio
import gzip
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from nlpdeploy.serve import http_front
from nlpdeploy.serve.aside import Aside
from nlpdeploy.wire import codec_json, codec_proto
from nlpdeploy.wire.json_large import LARGE
from nlpdeploy.wire.json_text import parse_json
from support.engines import LABELS, TinyEngine
from support.fronts import serving_fronts, until

LONG = "hello " * (LARGE // 6 + 1)


@pytest.fixture(scope="module")
def fronts(tmp_path_factory):
    with serving_fronts(tmp_path_factory.mktemp("fronts")) as running:
        yield running


class Gate:
    """A function that notes its thread, and waits in the one for large messages until it is let go."""

    def __init__(self, function):
        self._function = function
        self.threads, self.go = [], threading.Event()

    def __call__(self, *args, **options):
        name = threading.current_thread().name
        self.threads.append(name)
        if name.startswith("large"):
            self.go.wait(20)
        return self._function(*args, **options)


def call(fronts, method, path, content=None, **headers):
    connection = HTTPConnection("127.0.0.1", fronts.http_port, timeout=20)
    connection.request(method, path, content, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def predict(fronts, text, **headers):
    content = json.dumps({"text": text}).encode()
    return call(fronts, "POST", "/v2/models/tiny/predict", content, **headers)


def infer(module, port, text):
    tensor = module.InferInput("text", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode()], dtype=object))
    with module.InferenceServerClient(f"127.0.0.1:{port}") as triton:
        return bytes(triton.infer("tiny", [tensor]).as_numpy("label")[0])


def stream(port, text):
    answers = []
    tensor = tritonclient.grpc.InferInput("text", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode()], dtype=object))
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}") as triton:
        triton.start_stream(lambda result, error: answers.append(error or result))
        triton.async_stream_infer("tiny", [tensor])
        triton.stop_stream()
    return bytes(answers[0].as_numpy("label")[0])


WAYS = {
    "predict": (http_front, "parse_json", lambda fronts, text: json.loads(predict(fronts, text)[1])["label"].encode()),
    "http": (codec_json, "decode_request", lambda fronts, text: infer(tritonclient.http, fronts.http_port, text)),
    "grpc": (codec_proto, "decode_request", lambda fronts, text: infer(tritonclient.grpc, fronts.grpc_port, text)),
    "stream": (codec_proto, "decode_request", lambda fronts, text: stream(fronts.grpc_port, text)),
}


@pytest.mark.parametrize("way", WAYS)
def test_others_are_answered_while_a_large_message_is_taken_apart(fronts, way, monkeypatch):
    room, name, ask = WAYS[way]
    gate = Gate(getattr(room, name))
    monkeypatch.setattr(room, name, gate)
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(ask, fronts, LONG)
        assert until(lambda: gate.threads)
        assert call(fronts, "GET", "/v2/health/ready")[0] == 200
        assert ask(fronts, "hello") == b"hello"
        assert not large.done()
        gate.go.set()
        assert large.result(20) == b"hello"
    assert [thread.startswith("large") for thread in gate.threads] == [True, False]


def test_a_compressed_message_is_large_whatever_it_weighs(fronts, monkeypatch):
    gate = Gate(parse_json)
    gate.go.set()
    monkeypatch.setattr(http_front, "parse_json", gate)
    content = gzip.compress(json.dumps({"text": "hello"}).encode())
    status, body = call(fronts, "POST", "/v2/models/tiny/predict", content, content_encoding="gzip")
    assert (status, json.loads(body)["label"]) == (200, "hello")
    assert gate.threads[0].startswith("large")


@pytest.mark.parametrize(
    "body", [b'{"text": [' + b'"a", ' * 100_000 + b"7]}", b'{"text": "' + b"a" * LARGE + b'\xff"}']
)
def test_a_large_wrong_message_is_the_caller_s_error(fronts, body):
    status, answer = call(fronts, "POST", "/v2/models/tiny/predict", body)
    assert status == 400
    assert json.loads(answer)["error"]


def test_a_client_that_leaves_while_its_message_waits_is_not_worked_for():
    async def main():
        aside, gate, done = Aside(), threading.Event(), []
        first = asyncio.ensure_future(aside.run(LARGE + 1, gate.wait))
        left = asyncio.ensure_future(aside.run(LARGE + 1, lambda: done.append("left")))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait([left])
        gate.set()
        assert await first
        assert await aside.run(LARGE + 1, lambda: "next") == "next"
        aside.close()
        return done

    assert asyncio.run(main()) == []


def test_the_deadline_of_a_large_message_runs_while_it_is_taken_apart(tmp_path, monkeypatch):
    gate = Gate(parse_json)
    monkeypatch.setattr(http_front, "parse_json", gate)
    engine = TinyEngine()
    with serving_fronts(tmp_path, engine) as fronts, ThreadPoolExecutor(1) as pool:
        large = pool.submit(predict, fronts, LONG, x_request_timeout_ms="50")
        assert until(lambda: gate.threads)
        threading.Event().wait(0.06)
        gate.go.set()
        status, _ = large.result(20)
        assert status == 504
    assert engine.batches == []


def test_a_large_answer_in_json_is_the_same_as_small_ones(fronts):
    words = ["hello", "world", "note", "人"]
    count = 4096

    def ask(texts):
        body = {
            "inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": texts}],
            "outputs": [{"name": name} for name in ("label", "scores", "logits")],
        }
        status, content = call(fronts, "POST", "/v2/models/tiny/infer", json.dumps(body).encode())
        assert status == 200
        assert ": " not in content.decode()
        return {output["name"]: output["data"] for output in json.loads(content)["outputs"]}

    large, small = ask([words[i % 4] for i in range(count)]), ask(words)
    assert large["label"] == list(LABELS) * (count // 4)
    for name in ("scores", "logits"):
        assert large[name] == pytest.approx(small[name] * (count // 4))
