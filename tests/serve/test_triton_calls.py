"""What ``tritonclient`` and ``perf_analyzer`` ask beyond inference, answered on both transports as Triton does."""

import asyncio
import json
from http.client import HTTPConnection

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from support.engines import LABELS, tiny_predictor
from support.fronts import serving_fronts

TRANSPORTS = ("grpc", "http")


@pytest.fixture(scope="module")
def fronts(tmp_path_factory):
    with serving_fronts(tmp_path_factory.mktemp("fronts")) as running:

        async def add_more():
            for name, version in (("tiny", "2"), ("other", "7")):
                predictor = tiny_predictor(tmp_path_factory.mktemp("model"), name=name)
                running.plane.add(predictor, version=version, chosen=False)

        running.thread.run(add_more())
        yield running


class Asker:
    """One of the two clients, its answers as the JSON that both are documented to give."""

    def __init__(self, transport, fronts):
        self.grpc = transport == "grpc"
        self.module = tritonclient.grpc if self.grpc else tritonclient.http
        port = fronts.grpc_port if self.grpc else fronts.http_port
        self.client = self.module.InferenceServerClient(f"127.0.0.1:{port}")
        self._options = {"as_json": True} if self.grpc else {}

    def server(self):
        return self.client.get_server_metadata(**self._options)

    def metadata(self, *model):
        return self.client.get_model_metadata(*model, **self._options)

    def config(self, *model):
        answer = self.client.get_model_config(*model, **self._options)
        return answer["config"] if self.grpc else answer

    def statistics(self, *model):
        return self.client.get_inference_statistics(*model, **self._options)["model_stats"]

    def index(self):
        answer = self.client.get_model_repository_index(**self._options)
        return answer["models"] if self.grpc else answer

    def answered_by(self, model, version=""):
        """Name and version in the answer of that model."""
        response = self.infer((1,), model=model, model_version=version).get_response()
        if self.grpc:
            return response.model_name, response.model_version
        return response["model_name"], response["model_version"]

    def infer(self, shape, model="tiny", **options):
        tensor = self.module.InferInput("text", list(shape), "BYTES")
        tensor.set_data_from_numpy(np.full(shape, b"hello", dtype=object))
        return self.client.infer(model, [tensor], **options)


@pytest.fixture(params=TRANSPORTS)
def asker(request, fronts):
    made = Asker(request.param, fronts)
    yield made
    made.client.close()


def test_each_model_and_version_of_the_process_answers_under_its_own_name(asker):
    assert asker.answered_by("tiny") == asker.answered_by("tiny", "1") == ("tiny", "1")
    assert asker.answered_by("tiny", "2") == ("tiny", "2")
    assert asker.answered_by("other") == asker.answered_by("other", "7") == ("other", "7")
    with pytest.raises(InferenceServerException):
        asker.answered_by("other", "1")


def test_the_extensions_are_those_that_are_kept(asker):
    assert asker.server()["extensions"] == [
        "binary_tensor_data",
        "model_configuration",
        "schedule_policy",
        "statistics",
    ]


def test_the_configuration_has_what_clients_read(asker):
    config = asker.config("tiny")
    assert (config["name"], int(config.get("max_batch_size", 0))) == ("tiny", 0)
    assert config["parameters"]["max_rows"]["string_value"] == "4096"
    assert [(tensor["name"], tensor["data_type"]) for tensor in config["input"]] == [("text", "TYPE_STRING")]
    outputs = {
        tensor["name"]: (tensor["data_type"], list(map(int, tensor.get("dims", [])))) for tensor in config["output"]
    }
    assert outputs["label"] == ("TYPE_STRING", [-1])
    assert outputs["scores"] == ("TYPE_FP32", [-1, len(LABELS)])
    batching = config["dynamic_batching"]
    assert (int(batching["priority_levels"]), int(batching["default_priority_level"])) == (2, 2)
    assert not config["model_transaction_policy"].get("decoupled", False)
    assert json.loads(config["parameters"]["labels"]["string_value"]) == list(LABELS)
    assert asker.config("tiny", "2") == config


def test_statistics_of_all_of_a_model_and_of_a_version(asker):
    def names(*model):
        return sorted((entry["name"], entry["version"]) for entry in asker.statistics(*model))

    assert names() == [("other", "7"), ("tiny", "1"), ("tiny", "2")]
    assert names("tiny") == [("tiny", "1"), ("tiny", "2")]
    assert names("tiny", "2") == [("tiny", "2")]
    for wrong in (("nobody",), ("tiny", "9")):
        for ask in (asker.statistics, asker.config):
            with pytest.raises(InferenceServerException) as caught:
                ask(*wrong)
            assert caught.value.status() in ("StatusCode.NOT_FOUND", "404")


def test_the_index_lists_every_version(asker):
    found = sorted((entry["name"], entry["version"], entry["state"]) for entry in asker.index())
    assert found == [("other", "7", "READY"), ("tiny", "1", "READY"), ("tiny", "2", "READY")]


def of_version_1(statistics):
    """The entry's counts, 0 where protobuf's JSON leaves a 0 out."""
    (entry,) = [entry for entry in statistics if (entry["name"], entry["version"]) == ("tiny", "1")]
    stages = entry["inference_stats"]
    counts = {name: int(stages.get(name, {}).get("count", 0)) for name in ("success", "fail", "queue")}
    counts |= {f"{name}_ns": int(stages.get(name, {}).get("ns", 0)) for name in ("success", "queue", "compute_infer")}
    return counts | {name: int(entry.get(name, 0)) for name in ("inference_count", "execution_count")}


def test_the_calls_of_perf_analyzer_in_its_order(asker):
    """Metadata, configuration, extensions, statistics, load with ``--shape text:3``, statistics."""
    metadata, config = asker.metadata("tiny"), asker.config("tiny")
    assert {tensor["name"] for tensor in config["input"]} <= {tensor["name"] for tensor in metadata["inputs"]}
    # Of a model that batches it takes the metadata's shape without the first axis for one row, and a row of no axes
    # it can't make: "unable to set shape for the input", whatever --shape says. A free axis it lets --shape set.
    assert int(config.get("max_batch_size", 0)) == 0
    (text,) = metadata["inputs"]
    assert list(map(int, text["shape"])) == [-1]
    assert "statistics" in asker.server()["extensions"]
    before = of_version_1(asker.statistics("tiny"))
    wanted = [asker.module.InferRequestedOutput(tensor["name"]) for tensor in metadata["outputs"]]
    for _ in range(4):
        result = asker.infer((3,), outputs=wanted)
        assert result.as_numpy("scores").shape == (3, len(LABELS))
    after = of_version_1(asker.statistics("tiny"))
    grown = {name: after[name] - before[name] for name in after}
    assert (grown["success"], grown["queue"], grown["fail"], grown["inference_count"]) == (4, 4, 0, 12)
    assert grown["execution_count"] >= 4
    assert 0 < grown["compute_infer_ns"] < grown["success_ns"]


def get(fronts, method, path, body=None):
    connection = HTTPConnection("127.0.0.1", fronts.http_port, timeout=20)
    connection.request(method, path, body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    assert answer.status == 200, content
    return json.loads(content)


def test_over_http_every_number_that_a_strict_reader_takes_is_there_and_is_a_number(fronts):
    (entry,) = get(fronts, "GET", "/v2/models/other/versions/7/stats")["model_stats"]
    assert isinstance(entry["version"], str)
    numbers = [entry[name] for name in ("inference_count", "execution_count", "last_inference")]
    stages = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
    for stage in stages:
        numbers += [entry["inference_stats"][stage]["count"], entry["inference_stats"][stage]["ns"]]
    assert {type(number) for number in numbers} == {int}
    config = get(fronts, "GET", "/v2/models/other/versions/7/config")
    assert type(config["max_batch_size"]) is int
    assert config["model_transaction_policy"]["decoupled"] is False
    assert all(type(axis) is int for tensor in config["output"] for axis in tensor["dims"])


@pytest.mark.parametrize(
    ("method", "body"), [("POST", None), ("POST", b""), ("POST", b'{"ready": true}'), ("GET", None)]
)
def test_the_index_is_asked_in_each_client_s_way(fronts, method, body):
    found = get(fronts, method, "/v2/repository/index", body)
    assert {(entry["name"], entry["version"], entry["reason"]) for entry in found} == {
        ("other", "7", ""),
        ("tiny", "1", ""),
        ("tiny", "2", ""),
    }


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_aio_clients_ask_and_are_answered_alike(fronts, transport):
    module = tritonclient.grpc.aio if transport == "grpc" else tritonclient.http.aio
    port = fronts.grpc_port if transport == "grpc" else fronts.http_port

    async def main():
        async with module.InferenceServerClient(f"127.0.0.1:{port}") as triton:
            assert await triton.is_server_live()
            assert await triton.is_server_ready()
            assert await triton.is_model_ready("tiny", "2")
            for ask in (triton.get_model_config, triton.get_inference_statistics, triton.get_model_metadata):
                assert await ask("tiny")
            assert await triton.get_model_repository_index()
            tensor = module.InferInput("text", [2], "BYTES")
            tensor.set_data_from_numpy(np.array([b"hello", "人".encode()], dtype=object))
            answers = await asyncio.gather(*(triton.infer("tiny", [tensor], request_id=str(i)) for i in range(20)))
            for index, answer in enumerate(answers):
                response = answer.get_response()
                assert (response["id"] if transport == "http" else response.id) == str(index)
                assert [bytes(label).decode() for label in answer.as_numpy("label")] == ["hello", "问候"]

    asyncio.run(main())
