"""Hundreds of idle and slow clients: the live one is served all the while, and the slow ones are cut."""

import contextlib
import json
import socket
import struct
import threading
import time
from http.client import HTTPConnection

import grpc
import numpy as np
import pytest

from nlpdeploy.wire import codec_proto, oip
from nlpdeploy.wire.tensors import InferRequest, Tensor
from support.fronts import until
from support.server_process import server_process

SLOW_CLIENT = 1.5
QUESTIONS = 50
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">IBI", 4, 0, 0)


@contextlib.contextmanager
def crowd(port, count, *, segment=None):
    """So many raw connections; a small segment keeps the system's buffer behind each one small."""
    made = []
    try:
        for _ in range(count):
            client = socket.socket()
            made.append(client)
            if segment:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(10)
            client.connect(("127.0.0.1", port))
            client.setblocking(False)
        yield made
    finally:
        for client in made:
            client.close()


def is_cut(client):
    """Whether the server has ended this connection; what it said before is thrown away."""
    try:
        while client.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def dribble(clients, enough):
    """A byte of a header each, again and again."""
    while not enough.wait(0.1):
        for client in clients:
            with contextlib.suppress(OSError):
                client.send(b"x")


def metric(port, name):
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


def ask(connection):
    connection.request("POST", "/v2/models/tiny/predict", json.dumps({"text": "hello a"}).encode())
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read()).get("label")


@contextlib.contextmanager
def calling(port):
    """``ModelInfer`` of a channel."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = oip.METHODS["ModelInfer"]
        yield channel.unary_unary(
            method.path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=method.response.FromString,
        )


def test_500_idle_and_slow_http_clients_do_not_hurt_a_live_one_and_the_slow_ones_are_cut(tmp_path):
    with server_process(folder=tmp_path, slow_client=SLOW_CLIENT) as server, contextlib.ExitStack() as opened:
        port = server.wait_ready()["http_port"]
        idle = opened.enter_context(crowd(port, 200))
        dribblers = opened.enter_context(crowd(port, 240))
        deaf = opened.enter_context(crowd(port, 60, segment=536))
        for client in dribblers:
            client.send(b"POST /v2/models/tiny/predict HTTP/1.1\r\nx-slow: ")
        for client in deaf:  # they ask for much and read nothing
            client.settimeout(10)
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n" * 16)
            client.setblocking(False)
        enough = threading.Event()
        slowly = threading.Thread(target=dribble, args=(dribblers, enough))
        slowly.start()
        try:
            live = HTTPConnection("127.0.0.1", port, timeout=10)
            answers = []
            for _ in range(QUESTIONS):
                answers.append(ask(live))
                time.sleep(SLOW_CLIENT / QUESTIONS)
            live.close()
            assert answers == [(200, "hello")] * QUESTIONS
            assert until(lambda: all(map(is_cut, dribblers)))
        finally:
            enough.set()
            slowly.join()
        assert until(lambda: metric(port, "nlpdeploy_http_connections") == len(idle) + 1)
        # Read only now: who reads is not slow.
        assert until(lambda: all(map(is_cut, deaf)))
        assert not any(map(is_cut, idle))
        assert metric(port, 'nlpdeploy_http_refusals_total{status="408"}') == len(dribblers)
        server.signal()
        assert server.wait()[0] == 0


def test_idle_grpc_clients_do_not_hurt_a_live_one_and_those_that_never_answer_are_cut(tmp_path):
    with server_process(folder=tmp_path, slow_client=SLOW_CLIENT) as server, contextlib.ExitStack() as opened:
        port = server.wait_ready()["grpc_port"]
        silent = opened.enter_context(crowd(port, 150))
        half = opened.enter_context(crowd(port, 150))
        for client in half:
            client.send(PREFACE)
        with calling(port) as infer:
            text = Tensor("text", "BYTES", np.array([b"hello a"], dtype=object))
            request = codec_proto.encode_request(InferRequest("tiny", (text,)))
            labels = []
            for _ in range(QUESTIONS):
                answer = codec_proto.decode_response(infer(request, timeout=10, wait_for_ready=True))
                labels.append(answer.outputs[0].data.tolist())
                time.sleep(SLOW_CLIENT / QUESTIONS)
        assert labels == [[b"hello"]] * QUESTIONS
        assert until(lambda: all(map(is_cut, silent + half)))


@pytest.mark.parametrize("size", [7_000, 60_000, 70_000, 2_000_000])
def test_metadata_above_the_limit_is_refused_and_the_next_call_is_answered(tmp_path, size):
    with server_process(folder=tmp_path) as server, calling(server.wait_ready()["grpc_port"]) as infer:
        text = Tensor("text", "BYTES", np.array([b"hello a"], dtype=object))
        request = codec_proto.encode_request(InferRequest("tiny", (text,)))
        if size < 65_536:
            infer(request, timeout=10, metadata=[("x-note", "x" * size)])
        else:
            with pytest.raises(grpc.RpcError) as refused:
                infer(request, timeout=10, metadata=[("x-note", "x" * size)])
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        infer(request, timeout=10, wait_for_ready=True)


@pytest.mark.parametrize("front", ["http", "grpc"])
def test_connections_above_the_limit_are_refused_and_those_within_are_served(tmp_path, front):
    with server_process(folder=tmp_path, connections=10) as server:
        ready = server.wait_ready()
        live = HTTPConnection("127.0.0.1", ready["http_port"], timeout=10)
        assert ask(live) == (200, "hello")
        with contextlib.ExitStack() as opened:
            clients = []
            for _ in range(30):
                (client,) = opened.enter_context(crowd(ready[f"{front}_port"], 1))
                with contextlib.suppress(OSError):
                    client.send(PREFACE if front == "grpc" else b"GET /v2/health/live HTTP/1.1\r\n\r\n")
                clients.append(client)
                assert ask(live) == (200, "hello")  # who asks need not make room
            refused = 20 if front == "grpc" else 21
            assert until(lambda: ask(live) == (200, "hello") and sum(map(is_cut, clients)) == refused)
        live.close()
