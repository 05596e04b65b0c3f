"""Callers that leave, and a server that stops, at each stage: nothing runs for nobody, nobody waits for ever."""

import http.client
import json
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from nlpdeploy.serve.tokenising import SHORT_CHARACTERS
from nlpdeploy.wire import codec_proto, oip
from support.asking import FRONTS, ask, question
from support.engines import TinyEngine
from support.fronts import serving_fronts, until
from support.server_process import server_process


def half_call(front, port, request):
    """Ask and don't wait; what is returned leaves when it is called."""
    if front == "http":
        connection = socket.create_connection(("127.0.0.1", port))
        texts = [text.decode() for text in request.inputs[0].data.tolist()]
        body = json.dumps({"text": texts}).encode()
        head = f"POST /v2/models/tiny/predict HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        return connection.close
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
    call = channel.unary_unary(oip.METHODS["ModelInfer"].path).future(
        codec_proto.encode_request(request).SerializeToString(), timeout=30
    )

    def leave():
        call.cancel()
        channel.close()

    return leave


class SlowTokenizer:
    """Holds each call of a model's tokenizer until it is let go."""

    def __init__(self, server, monkeypatch):
        encoder = server.plane.served()[0].predictor.encoder
        whole = encoder.encode
        self.busy, self.go = threading.Event(), threading.Event()

        def encode(texts, pairs=None):
            self.busy.set()
            assert self.go.wait(30)
            return whole(texts, pairs)

        monkeypatch.setattr(encoder, "encode", encode)


def nothing_open(server):
    names = ("queue_rows", "queue_tokens", "open_requests")
    return not any(server.metric(f"nlpdeploy_{name}") for name in names)


@pytest.mark.parametrize("front", FRONTS)
def test_who_leaves_while_his_text_is_tokenised_is_never_run(front, tmp_path, monkeypatch):
    with serving_fronts(tmp_path) as server:
        port = getattr(server, f"{front}_port")
        tokenizer = SlowTokenizer(server, monkeypatch)
        long = "hello" + " " * SHORT_CHARACTERS  # a short one is tokenised before anybody can leave
        leave = half_call(front, port, question([long]))
        assert tokenizer.busy.wait(10)
        leave()
        assert until(lambda: server.metric("nlpdeploy_request_seconds_count", outcome="Cancelled") == 1)
        assert nothing_open(server)
        tokenizer.go.set()
        assert ask(front, port, question(["world"])).outputs["label"] == ["world"]
        assert server.engine.rows_run() == 1


@pytest.mark.parametrize("front", FRONTS)
def test_who_leaves_the_queue_is_never_run_and_who_leaves_a_call_ends_it_for_himself_alone(front, tmp_path):
    gate = threading.Event()
    with serving_fronts(tmp_path, TinyEngine(gate=gate)) as server, ThreadPoolExecutor(1) as clients:
        port = getattr(server, f"{front}_port")
        leave_call = half_call(front, port, question(["a"]))
        assert until(lambda: server.engine.batches)
        leave_queue = half_call(front, port, question(["world"] * 3))
        assert until(lambda: server.metric("nlpdeploy_queue_tokens") == 9)
        staying = clients.submit(ask, front, port, question(["note"]))
        assert until(lambda: server.metric("nlpdeploy_queue_tokens") == 12)
        leave_call()
        leave_queue()
        assert until(lambda: server.metric("nlpdeploy_request_seconds_count", outcome="Cancelled") == 2)
        assert server.metric("nlpdeploy_queue_rows") == 1
        gate.set()
        assert staying.result(10).outputs["label"] == ["note"]
        assert server.engine.rows_run() == 2
        assert nothing_open(server)
        assert server.metric("nlpdeploy_request_seconds_count") == 3


def test_who_leaves_amid_his_answer_harms_nobody(tmp_path):
    with serving_fronts(tmp_path) as server:
        body = json.dumps({"text": ["hello"] * 4000}).encode()
        for _ in range(8):
            connection = socket.create_connection(("127.0.0.1", server.http_port))
            head = f"POST /v2/models/tiny/predict HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
            connection.close()
        assert ask("http", server.http_port, question(["world"])).outputs["label"] == ["world"]
        assert nothing_open(server)


def test_requests_sent_without_end_each_get_one_answer_while_the_server_stops(tmp_path):
    """Every connection is answered, told to go elsewhere or closed between requests; the server ends with status 0."""
    ends, stopped = [], threading.Event()

    def caller(port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        body = json.dumps({"text": ["hello", "world"]})
        while True:
            begun = False
            try:
                connection.request("POST", "/v2/models/tiny/predict", body)
                response = connection.getresponse()
                begun = True
                content = json.loads(response.read())
            except (ConnectionError, http.client.HTTPException):
                # An idle connection may be closed as the request arrives; refused is what comes after the end.
                ends.append("cut" if begun else "closed")
                connection.close()
                if stopped.is_set():
                    return
                time.sleep(0.002)
                continue
            ends.append(response.status)
            if response.status == 200:
                assert [row["label"] for row in content["predictions"]] == ["hello", "world"]

    with server_process(folder=tmp_path, seconds=0.01) as server, ThreadPoolExecutor(8) as callers:
        port = server.wait_ready()["http_port"]
        work = [callers.submit(caller, port) for _ in range(8)]
        assert until(lambda: ends.count(200) > 40)
        server.signal(signal.SIGTERM)
        status, _ = server.wait()
        stopped.set()
        for one in work:
            one.result(20)
    assert status == 0
    assert set(ends) <= {200, 503, "closed"}


def test_what_waits_beyond_the_grace_time_is_answered_as_unavailable_on_both_fronts(tmp_path):
    with (
        server_process(folder=tmp_path, seconds=4.0, grace=0.1) as server,
        ThreadPoolExecutor(8) as callers,
    ):
        ready = server.wait_ready()
        ports = {front: ready[f"{front}_port"] for front in FRONTS}
        asked = [callers.submit(ask, FRONTS[k % 2], ports[FRONTS[k % 2]], question(["hello"])) for k in range(8)]
        assert until(lambda: open_requests(ports["http"]) == 8)
        server.signal(signal.SIGTERM)
        ends = [one.result(20) for one in asked]
        assert server.wait()[0] == 0
        assert all(end.is_(503) for end in ends)


def test_a_server_that_was_frozen_answers_all_that_waited_and_goes_on(tmp_path):
    with server_process(folder=tmp_path, seconds=0.02) as server, ThreadPoolExecutor(40) as callers:
        ready = server.wait_ready()
        ports = {front: ready[f"{front}_port"] for front in FRONTS}

        def one(number):
            front = FRONTS[number % 2]
            return ask(front, ports[front], question(["hello"], parameters={"timeout": 300_000}), timeout=60)

        asked = [callers.submit(one, number) for number in range(40)]
        assert until(lambda: any(end.done() for end in asked))
        server.signal(signal.SIGSTOP)
        late = [callers.submit(one, number) for number in range(40)]
        time.sleep(0.5)
        server.signal(signal.SIGCONT)
        ends = [end.result(60) for end in asked + late]
        assert all(end.is_(200) or end.is_(429) or end.is_(504) for end in ends)
        assert until(lambda: open_requests(ports["http"]) == 0)
        for front in FRONTS:
            assert ask(front, ports[front], question(["world"])).outputs["label"] == ["world"]
        server.signal(signal.SIGTERM)
        assert server.wait()[0] == 0


def open_requests(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("nlpdeploy_open_requests{"))
