"""``nlpdeploy serve --upstream`` as its operators run it: a process of its own, before servers that do what is said."""

import json
import socket
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.cli import nlpdeploy, one_line, server
from support.fake_torchserve import DIGEST, FakeTorchServe
from support.fronts import LoopThread, until
from support.tiny_bundle import publish_tiny_bundle


@pytest.fixture
def upstream():
    """A fake TorchServe on a loop in a thread, and what starts and stops it."""
    thread, fake = LoopThread(), FakeTorchServe()
    thread.run(fake.start())
    fake.thread = thread
    yield fake
    thread.run(fake.stop())
    thread.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def asking(module, port):
    return module.InferenceServerClient(f"127.0.0.1:{port}")


def tensor(module, text):
    made = module.InferInput("text", [1], "BYTES")
    made.set_data_from_numpy(np.array([text.encode()], dtype=object))
    return made


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--upstream", "m"], "wanted NAME=torchserve://HOST:PORT"),
        (["--upstream", "m=http://127.0.0.1:8080"], "wanted NAME=torchserve://HOST:PORT"),
        (["--upstream", "m=torchserve://127.0.0.1"], "--upstream"),
        (["--upstream", "m=torchserve://127.0.0.1:1/a/b/c"], "wanted NAME=torchserve://HOST:PORT"),
        (["--upstream", "m=torchserve://127.0.0.1:1,127.0.0.1:1"], "one instance twice"),
        (["--upstream", "m=torchserve://127.0.0.1:1", "--upstream-key-file", "127.0.0.1:2=/key"], "127.0.0.1:2"),
        (["--upstream", "m=torchserve://127.0.0.1:1", "--upstream-requests", "0"], "--upstream-requests"),
        (["--upstream", "m=torchserve://127.0.0.1:1", "--upstream-wait", "soon"], "soon"),
    ],
)
def test_options_that_say_nothing_are_one_line_and_status_2(options, said, tmp_path):
    done = nlpdeploy("serve", "--store", tmp_path, "--grpc-port", 0, "--http-port", 0, *options)
    assert done.returncode == 2
    assert said in one_line(done.stderr)


def test_a_fleet_that_does_not_come_is_one_line_and_status_2(tmp_path):
    place = f"127.0.0.1:{free_port()}"
    options = ("--upstream", f"m=torchserve://{place}", "--upstream-wait", "1s")
    done = nlpdeploy("serve", "--store", tmp_path, "--grpc-port", 0, "--http-port", 0, "--log-format", "text", *options)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "--upstream m" in line]
    assert f"{place}: connection refused" in line
    assert "--upstream-wait" in line


def test_a_model_of_the_store_and_an_upstream_are_served_side_by_side(upstream, tmp_path):
    publish_tiny_bundle(tmp_path, "tiny")
    options = ("--store", tmp_path, "--model", "tiny", "--upstream", f"m=torchserve://{upstream.place}")
    with server(*options) as ready, asking(tritonclient.http, ready["http_port"]) as client:
        assert client.is_model_ready("tiny")
        assert client.is_model_ready("m")
        here = client.infer("tiny", [tensor(tritonclient.http, "hello")])
        there = client.infer("m", [tensor(tritonclient.http, "abc")])
        assert here.as_numpy("label")[0] == b"hello"
        assert there.as_numpy("label")[0] == b"odd"
        assert there.get_response()["parameters"]["bundle_digest"] == DIGEST
        assert {model["name"] for model in client.get_model_repository_index()} == {"tiny", "m"}


def test_streams_and_the_health_of_an_upstream(upstream, tmp_path):
    answers = []
    options = ("--store", tmp_path, "--upstream", f"m=torchserve://{upstream.place}")
    with server(*options) as ready:
        address = f"127.0.0.1:{ready['grpc_port']}"
        with tritonclient.grpc.InferenceServerClient(address) as client:
            client.start_stream(lambda result, error: answers.append((result, error)))
            for text in ("a", "ab", "abc"):
                client.async_stream_infer("m", [tensor(tritonclient.grpc, text)], request_id=text)
            assert until(lambda: len(answers) == 3)
            client.stop_stream()
        assert [error for _, error in answers] == [None] * 3
        labels = {result.get_response().id: result.as_numpy("label")[0] for result, _ in answers}
        assert labels == {"a": b"odd", "ab": b"even", "abc": b"odd"}
        with grpc.insecure_channel(address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="m"), timeout=30)
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            upstream.thread.run(upstream.stop())
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            upstream.thread.run(upstream.start())
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING


def test_the_process_loads_no_engine_and_no_torch(upstream, tmp_path):
    options = ("--store", tmp_path, "--upstream", f"m=torchserve://{upstream.place}")
    with (
        server(*options) as ready,
        tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{ready['grpc_port']}") as client,
    ):
        assert client.infer("m", [tensor(tritonclient.grpc, "abc")]).as_numpy("label")[0] == b"odd"
        loaded = Path(f"/proc/{ready['pid']}/maps").read_text()
        assert "numpy" in loaded
        assert not [name for name in ("torch", "onnxruntime", "openvino") if f"/{name}/" in loaded]


def test_explain_shows_the_upstreams(upstream, tmp_path):
    place = f"m=torchserve://{upstream.place}"
    done = nlpdeploy("serve", "--store", tmp_path, "--upstream", place, "--explain", "--json")
    assert done.returncode == 0, done.stderr
    said = json.dumps(json.loads(done.stdout))
    assert upstream.place in said
    assert DIGEST in said
