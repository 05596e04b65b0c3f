"""A call whose address is no UTF-8 ends the library's accept loop; ours listens again and loses no call."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nlpdeploy.wire import oip
from support.asking import ask, question
from support.engines import TinyEngine
from support.fronts import serving_fronts, until
from support.malformed import http2_seeds, infer_seeds

PATH = oip.METHODS["ModelInfer"].path


def end_accept_loop(port, caplog):
    """Send the call that does it, and wait until the server has noticed."""
    before = caplog.text.count("listening again")
    deadly = http2_seeds(PATH, infer_seeds()[0])[0].replace(PATH.encode(), PATH.encode()[:-1] + b"\xff")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(deadly)
        assert until(lambda: caplog.text.count("listening again") > before)


def answered(port):
    return ask("grpc", port, question(["hello"])).is_(200)


def test_calls_go_on_and_come_in_again_on_the_same_port(tmp_path, caplog):
    gate = threading.Event()
    with serving_fronts(tmp_path, TinyEngine(gate=gate)) as server, ThreadPoolExecutor(1) as callers:
        under_way = callers.submit(ask, "grpc", server.grpc_port, question(["world"]))
        assert until(lambda: server.engine.batches)
        end_accept_loop(server.grpc_port, caplog)
        gate.set()
        assert under_way.result(20).outputs["label"] == ["world"]
        assert until(lambda: answered(server.grpc_port))
        end_accept_loop(server.grpc_port, caplog)
        assert until(lambda: answered(server.grpc_port))


def test_a_server_whose_accept_loop_has_died_still_stops(tmp_path, caplog):
    with serving_fronts(tmp_path) as server, grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        end_accept_loop(server.grpc_port, caplog)
        assert until(lambda: answered(server.grpc_port))
    # Left without an error, which joins the loop's thread; the watcher has heard of the end.
    assert watch.code() is not None
