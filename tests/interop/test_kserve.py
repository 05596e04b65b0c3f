"""The KServe SDK, from an environment of its own, against a live server; and beside our messages in one process."""

import pytest

from support.engines import KEYWORDS, LABELS
from support.fronts import serving_fronts

ASK = """
import asyncio, json, sys
import numpy as np
from kserve import InferInput, InferRequest, InferenceGRPCClient, InferenceRESTClient
from kserve.inference_client import RESTConfig

grpc_port, http_port, *words = sys.argv[1:]

def question(raw):
    if raw:
        text = InferInput("text", [len(words)], "BYTES")
        text.set_data_from_numpy(np.array([word.encode() for word in words], dtype=object))
    else:
        text = InferInput("text", [len(words)], "BYTES", [word for word in words])
    return InferRequest("tiny", [text], request_id="r7")

def told(response):
    label, score = (response.get_output_by_name(name).as_numpy().tolist() for name in ("label", "score"))
    text = [word.decode() if isinstance(word, bytes) else word for word in label]
    return {"id": response.id, "label": text, "score": score}

async def main():
    found = {}
    async with InferenceGRPCClient(f"127.0.0.1:{grpc_port}") as client:
        found["grpc ready"] = [
            await client.is_server_live(), await client.is_server_ready(), await client.is_model_ready("tiny")
        ]
        for raw in (False, True):
            asked = question(raw)
            if not raw:
                asked.inputs[0].data = [word.encode() for word in words]
            found[f"grpc raw={raw}"] = told(await client.infer(asked))
        try:
            await client.is_model_ready("nobody")
        except Exception as error:
            found["grpc error"] = error.code().name
    base = f"http://127.0.0.1:{http_port}"
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        found["http ready"] = [
            await client.is_server_live(base),
            await client.is_server_ready(base),
            await client.is_model_ready(base, "tiny"),
        ]
        for raw in (False, True):
            found[f"http raw={raw}"] = told(await client.infer(base, question(raw), model_name="tiny"))
        try:
            await client.infer(base, question(False), model_name="nobody")
        except Exception as error:
            found["http error"] = error.response.status_code
    print(json.dumps(found))

asyncio.run(main())
"""

BESIDE = """
import json, sys
{imports}
from kserve.protocol.grpc import grpc_predict_v2_pb2 as theirs
sent = theirs.ModelInferRequest(model_name="m", raw_input_contents=[b"x"])
sent.parameters["priority"].int64_param = 1
got = oip.ModelInferRequest.FromString(sent.SerializeToString())
back = theirs.ModelInferRequest.FromString(got.SerializeToString())
print(json.dumps([got.model_name, got.parameters["priority"].int64_param, back == sent, type(got) is type(sent)]))
"""


@pytest.fixture(scope="module")
def kserve(environment):
    return environment("kserve")


def test_the_sdk_is_answered_over_grpc_and_http_raw_and_typed(kserve, tmp_path):
    with serving_fronts(tmp_path) as fronts:
        found = kserve.run(ASK, fronts.grpc_port, fronts.http_port, *KEYWORDS)
    assert found["grpc ready"] == found["http ready"] == [True, True, True]
    for way in ("grpc raw=False", "grpc raw=True", "http raw=False", "http raw=True"):
        assert (found[way]["id"], found[way]["label"]) == ("r7", list(LABELS))
        assert found[way]["score"] == pytest.approx(found["grpc raw=True"]["score"])
    assert found["grpc error"] == "NOT_FOUND"
    assert found["http error"] == 404


@pytest.mark.parametrize(
    "imports",
    ["import kserve; import nlpdeploy.wire.oip as oip", "import nlpdeploy.wire.oip as oip; import kserve"],
    ids=["theirs first", "ours first"],
)
def test_stands_beside_the_sdk_s_messages_in_either_order(kserve, imports):
    assert kserve.run(BESIDE.format(imports=imports)) == ["m", 1, True, False]
