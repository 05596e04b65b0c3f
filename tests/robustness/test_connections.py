"""What clients cost: connections leave nothing behind, and a body costs what it weighs however it is cut."""

import http.client
import json
import signal
import socket
import subprocess
import sys

import grpc
import psutil
import pytest

from support.asking import ask, question
from support.fronts import until
from support.server_process import server_process

MIB = 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with server_process(folder=tmp_path_factory.mktemp("tiny")) as server:
        ready = server.wait_ready()
        yield ready["http_port"], ready["grpc_port"], psutil.Process(server.process.pid)
        server.signal(signal.SIGTERM)
        assert server.wait()[0] == 0


def come_and_go(http_port, grpc_port):
    """Connections that ask, that say nothing, that stop amid a head or a body, that reset, and gRPC channels."""
    for _ in range(20):
        for sent in (b"", b"GET /v2/heal", b"POST /v2/models/tiny/predict HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"):
            connection = socket.create_connection(("127.0.0.1", http_port))
            connection.sendall(sent)
            if sent:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
            connection.close()
        socket.create_connection(("127.0.0.1", grpc_port)).close()
        for front, port in (("http", http_port), ("grpc", grpc_port)):
            assert ask(front, port, question(["hello"])).is_(200)


def test_connections_that_come_and_go_leave_no_files_and_no_memory(server):
    http_port, grpc_port, process = server
    come_and_go(http_port, grpc_port)
    assert until(lambda: len(process.net_connections()) <= 2)  # those that listen
    files, memory = process.num_fds(), process.memory_info().rss
    for _ in range(8):
        come_and_go(http_port, grpc_port)
    assert until(lambda: process.num_fds() <= files), (files, process.num_fds())
    assert process.memory_info().rss <= memory + 8 * MIB


def test_many_at_once_are_all_let_go(server):
    http_port, grpc_port, process = server
    files = process.num_fds()
    idle = [socket.create_connection(("127.0.0.1", port)) for port in [http_port, grpc_port] * 100]
    assert until(lambda: process.num_fds() >= files + 200)
    assert ask("http", http_port, question(["hello"])).is_(200)
    assert ask("grpc", grpc_port, question(["hello"])).is_(200)
    for connection in idle:
        connection.close()
    assert until(lambda: process.num_fds() <= files), (files, process.num_fds())


def test_a_body_in_chunks_of_three_bytes_costs_what_it_weighs(server):
    http_port, _, process = server
    body = json.dumps({"text": "hello" + " a" * MIB}).encode()
    whole = http.client.HTTPConnection("127.0.0.1", http_port, timeout=60)
    whole.request("POST", "/v2/models/tiny/predict", body)  # what its parsing and tokenising take is taken now
    assert json.loads(whole.getresponse().read())["label"]
    before = process.memory_info().rss
    with socket.create_connection(("127.0.0.1", http_port), timeout=60) as connection:
        connection.sendall(b"POST /v2/models/tiny/predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"".join(b"3\r\n%b\r\n" % body[k : k + 3] for k in range(0, len(body) // 3 * 3, 3)))
        rest = body[len(body) // 3 * 3 :]
        connection.sendall(b"%x\r\n%b\r\n" % (len(rest), rest) if rest else b"")
        answer = http.client.HTTPConnection("127.0.0.1", http_port, timeout=60)
        answer.request("GET", "/v2/health/live")  # its answer comes after all that was sent before has been read
        answer.getresponse().read()
        held = process.memory_info().rss - before
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert held <= 16 * MIB


def test_a_message_that_swells_is_refused_before_it_is_whole(server):
    _, grpc_port, process = server
    before = process.memory_info().rss
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}", options=options) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            infer(bytes(160 * MIB), compression=grpc.Compression.Gzip, timeout=60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert process.memory_info().rss - before <= 120 * MIB
    assert ask("grpc", grpc_port, question(["hello"])).is_(200)


OURS = "import nlpdeploy.serve.app, nlpdeploy.serve.grpc_front, nlpdeploy.serve.http_front"
THEIRS = "import tritonclient.grpc, tritonclient.grpc.aio, tritonclient.http, tritonclient.http.aio"


@pytest.mark.parametrize("order", [(OURS, THEIRS), (THEIRS, OURS)], ids=["ours first", "theirs first"])
def test_the_server_lives_beside_tritonclient_in_one_process(order, server):
    _, grpc_port, _ = server
    asked = (
        f"client = tritonclient.grpc.InferenceServerClient('127.0.0.1:{grpc_port}')\n"
        "assert client.is_server_ready() and client.get_model_metadata('tiny').name == 'tiny'\n"
        "from nlpdeploy.wire import oip\n"
        "assert oip.ModelInferRequest(model_name='tiny').SerializeToString()\n"
    )
    ended = subprocess.run([sys.executable, "-c", "\n".join([*order, asked])], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
