"""The server as a process: ready only when it is, drained on a signal, gone with the right status."""

import http.client
import json
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.fronts import until
from support.server_process import Server, free_port, server_process
from support.tiny_bundle import MODEL_FILE, publish_tiny_bundle


def get(port: int, path: str) -> int | None:
    """Status of a GET; None where nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (ConnectionError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def predict(port: int, text: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/v2/models/tiny/predict", json.dumps({"text": text}).encode())
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def open_requests(port: int) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("nlpdeploy_open_requests{"))


def wait_for_open_requests(port: int, count: int) -> None:
    while open_requests(port) < count:
        time.sleep(0.01)


def test_a_published_model_is_served_and_named_in_the_ready_line(tmp_path: Path) -> None:
    publish_tiny_bundle(tmp_path)
    with server_process(store=tmp_path, model="tiny") as server:
        ready = server.wait_ready()
        assert get(ready["http_port"], "/v2/health/ready") == 200
        status, answer = predict(ready["http_port"], "hello a")
        assert (status, answer["label"]) == (200, "hello")
        (model,) = ready["models"]
        assert (model["name"], model["version"], model["engine"]) == ("tiny", "1", "onnx-fp32")
        with socket.create_connection(("127.0.0.1", ready["grpc_port"])):
            pass
        server.signal(signal.SIGINT)
        status, said = server.wait()
    assert status == 0
    assert f"grpc on 127.0.0.1:{ready['grpc_port']}, messages up to 33554432 bytes" in said
    assert f"http on 127.0.0.1:{ready['http_port']}, messages up to 33554432 bytes" in said
    assert f"ready: tiny version 1 on onnx-fp32, bundle {model['bundle_digest']}" in said


def test_a_changed_byte_never_becomes_ready_and_the_file_is_named(tmp_path: Path) -> None:
    path = publish_tiny_bundle(tmp_path).path / MODEL_FILE
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    port = free_port()
    ready, live = [], []
    with server_process(store=tmp_path, model="tiny", http_port=port) as server:
        while server.process.poll() is None:
            ready.append(get(port, "/v2/health/ready"))
            live.append(get(port, "/v2/health/live"))
            time.sleep(0.005)
        status, said = server.wait()
    assert set(ready) <= {503, None}
    assert set(live) <= {200, None}
    assert status != 0
    assert "changed: engines/onnx-fp32/model.onnx" in said


def test_a_signal_finishes_accepted_work_and_then_ends_with_0(tmp_path: Path) -> None:
    with server_process(folder=tmp_path, seconds=0.4) as server, ThreadPoolExecutor(40) as pool:
        port = server.wait_ready()["http_port"]
        answers = [pool.submit(predict, port, "world a") for _ in range(40)]
        wait_for_open_requests(port, 40 - 32)  # one batch may be through already
        server.signal()
        assert all(answer.result()[0] == 200 for answer in answers if answer.result()[0] != 503)
        done = [answer.result()[1]["label"] for answer in answers if answer.result()[0] == 200]
        status, _ = server.wait()
    assert set(done) == {"world"}
    assert len(done) >= 8
    assert status == 0


def test_work_that_outlasts_the_grace_time_is_answered_as_unavailable(tmp_path: Path) -> None:
    with server_process(folder=tmp_path, seconds=30, grace=0.2) as server, ThreadPoolExecutor(3) as pool:
        port = server.wait_ready()["http_port"]
        answers = [pool.submit(predict, port, "world") for _ in range(3)]
        wait_for_open_requests(port, 3)
        server.signal()
        assert {answer.result()[0] for answer in answers} == {503}
        assert server.wait()[0] == 0


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with server_process(folder=tmp_path, seconds=600, grace=600) as server:
        port = server.wait_ready()["http_port"]
        answers: list[int] = []
        waiting = threading.Thread(target=lambda: answers.append(predict(port, "world")[0]))
        waiting.start()
        wait_for_open_requests(port, 1)
        signal_until_gone(server)
        waiting.join()
    assert answers == [503]


def watch_health(port: int, told: list[str]) -> None:
    """Write down each state that the server tells those who watch, and the status that ends the watch."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            states = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            told.extend(health_pb2.HealthCheckResponse.ServingStatus.Name(state.status) for state in states)
        except grpc.RpcError as error:
            told.append(error.code().name)


def test_those_who_watch_hear_of_the_end_before_accepted_work_is_done(tmp_path: Path) -> None:
    told: list[str] = []
    with server_process(folder=tmp_path, seconds=3) as server, ThreadPoolExecutor(2) as pool:
        ready = server.wait_ready()
        watching = pool.submit(watch_health, ready["grpc_port"], told)
        assert until(lambda: told == ["SERVING"])
        answer = pool.submit(predict, ready["http_port"], "world")
        wait_for_open_requests(ready["http_port"], 1)
        server.signal()
        assert until(lambda: told == ["SERVING", "NOT_SERVING"])
        assert get(ready["http_port"], "/v2/health/ready") == 503
        assert get(ready["http_port"], "/v2/health/live") == 200
        assert not answer.done()
        assert predict(ready["http_port"], "hello")[0] == 503
        assert answer.result()[0] == 200
        watching.result()
        assert server.wait()[0] == 0
    assert told == ["SERVING", "NOT_SERVING", "UNAVAILABLE"]


def test_those_who_watch_hear_of_the_end_of_an_idle_server(tmp_path: Path) -> None:
    told: list[str] = []
    with server_process(folder=tmp_path) as server, ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch_health, server.wait_ready()["grpc_port"], told)
        assert until(lambda: told == ["SERVING"])
        server.signal()
        watching.result()
        assert server.wait()[0] == 0
    assert told == ["SERVING", "NOT_SERVING", "UNAVAILABLE"]


def test_signals_without_end_still_end_with_0(tmp_path: Path) -> None:
    with server_process(folder=tmp_path) as server:
        server.wait_ready()
        while server.process.poll() is None:
            server.signal()
            time.sleep(0.005)
        status, said = server.wait()
    assert status == 0
    assert "Traceback" not in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_models_are_loaded_ends_with_0(tmp_path: Path, number: signal.Signals) -> None:
    publish_tiny_bundle(tmp_path)
    port = free_port()
    with server_process(store=tmp_path, model="tiny", http_port=port) as server:
        while get(port, "/v2/health/live") is None:
            time.sleep(0.002)
        server.signal(number)
        status, said = server.wait()
    assert status == 0
    assert "Traceback" not in said
    assert said.count("\n") <= 4


def signal_until_gone(server: Server) -> None:
    # Two signals sent back to back may arrive as one.
    while server.process.poll() is None:
        server.signal()
        time.sleep(0.2)
    assert server.wait()[0] == 0


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with server_process(folder=tmp_path, http_port=port) as server:
            status, said = server.wait()
    assert status == 2
    assert f"can't listen on 127.0.0.1:{port}" in said
    assert "--http-port" in said
    assert "Traceback" not in said


def test_an_empty_store_ends_the_start(tmp_path: Path) -> None:
    with server_process(store=tmp_path) as server:
        status, said = server.wait()
    assert status == 2
    assert "empty store" in said
