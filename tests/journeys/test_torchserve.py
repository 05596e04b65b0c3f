"""A real checkpoint's bundle in a real TorchServe: the answers are those of ``predict``, over every interface."""

import csv
import json
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from nlpdeploy.serve.local import answer_here
from support.cli import server as serving
from support.shared import needs_shared
from support.torchserve_server import grpc_predict, torchserve

pytestmark = [needs_shared, pytest.mark.timeout(900)]

TEXTS = 200
ENGINE = "onnx-fp32"
CLIENTS = 16


@pytest.fixture(scope="module")
def texts(english):
    with english.data.open(encoding="utf-8", newline="") as stream:
        rows = [row["text"] for row in csv.DictReader(stream)]
    return random.Random(11).sample(rows, TEXTS)


@pytest.fixture(scope="module")
def wanted(english, texts):
    return answer_here(english.store / english.name / "1", texts, engine=ENGINE)


@pytest.fixture(scope="module")
def server(english):
    with torchserve(english.name, "--engine", ENGINE, "--store", english.store) as running:
        yield running


def agree(answers, wanted):
    assert [answer["label"] for answer in answers] == [want["label"] for want in wanted]
    assert [answer["score"] for answer in answers] == pytest.approx([want["score"] for want in wanted], abs=1e-6)


def test_rest_under_concurrent_clients(server, english, texts, wanted):
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda text: server.predict(english.name, {"text": text}), texts))
    assert {status for status, _ in answers} == {200}
    agree([answer for _, answer in answers], wanted)


def test_a_list_of_all_texts_in_one_request(server, english, texts, wanted):
    status, answer = server.predict(english.name, {"text": texts})
    assert status == 200
    agree(answer["predictions"], wanted)


def test_its_grpc(server, english, texts, wanted):
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda text: grpc_predict(server, english.name, {"data": text.encode()}), texts))
    agree(answers, wanted)


def test_its_open_inference_protocol(server, english, texts, wanted):
    answers = []
    for begin in range(0, TEXTS, 20):
        some = texts[begin : begin + 20]
        tensor = {"name": "text", "datatype": "BYTES", "shape": [len(some)], "data": some}
        status, answer = server.post(f"/v2/models/{english.name}/infer", json.dumps({"inputs": [tensor]}).encode())
        assert status == 200
        assert answer["parameters"] == {"bundle_digest": english.result["digest"], "engine": ENGINE}
        columns = {output["name"]: output["data"] for output in answer["outputs"]}
        answers += [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    agree(answers, wanted)


@pytest.fixture(scope="module")
def front(server, english):
    address = f"{english.name}=torchserve://127.0.0.1:{server.ready['http_port']}"
    with serving("--upstream", address, "--upstream-key-file", server.ready["key_file"]) as ready:
        yield ready


@pytest.mark.parametrize(("module", "port"), [(tritonclient.grpc, "grpc_port"), (tritonclient.http, "http_port")])
def test_tritonclient_through_our_front_over_it(module, port, front, english, texts, wanted):
    def ask(text):
        tensor = module.InferInput("text", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([text.encode()], dtype=object))
        with module.InferenceServerClient(f"127.0.0.1:{front[port]}") as client:
            answer = client.infer(english.name, [tensor])
        described = answer.get_response()
        if module is tritonclient.http:
            assert described["parameters"] == {"bundle_digest": english.result["digest"], "engine": ENGINE}
        return {"label": answer.as_numpy("label")[0].decode(), "score": float(answer.as_numpy("score")[0])}

    with ThreadPoolExecutor(CLIENTS) as pool:
        agree(list(pool.map(ask, texts)), wanted)


def test_our_front_over_it_describes_the_bundle(front, english):
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{front['http_port']}") as client:
        assert client.is_server_ready()
        assert client.is_model_ready(english.name)
        described = client.get_model_metadata(english.name)
    assert [tensor["name"] for tensor in described["outputs"]][:2] == ["label", "score"]
    assert described["properties"]["bundle_digest"] == english.result["digest"]
    assert len(json.loads(described["properties"]["labels"])) == 77
