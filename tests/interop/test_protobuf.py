"""The whole server on protobuf 5 and 7, asked by ``tritonclient``, which is on 6."""

import json
import subprocess

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from support.engines import KEYWORDS, LABELS


@pytest.fixture(scope="module", params=[5, 7])
def ready(request, environment, tmp_path_factory):
    """The JSON line of a server that runs in that environment."""
    major = request.param
    made = environment(f"protobuf{major}")
    version = made.run("import google.protobuf as p, json; print(json.dumps(p.__version__))")
    assert version.startswith(f"{major}.")
    command = [made.python, "-m", "support.server_process", f"--folder={tmp_path_factory.mktemp('tiny')}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=made.variables())
    try:
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield json.loads(line)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("module", [tritonclient.grpc, tritonclient.http])
def test_inference_configuration_and_statistics(ready, module):
    port = ready["grpc_port"] if module is tritonclient.grpc else ready["http_port"]
    text = module.InferInput("text", [len(KEYWORDS)], "BYTES")
    text.set_data_from_numpy(np.array([word.encode() for word in KEYWORDS], dtype=object))
    with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
        answer = client.infer("tiny", [text])
        assert [bytes(label).decode() for label in answer.as_numpy("label")] == list(LABELS)
        assert client.get_model_config("tiny")
        assert client.get_inference_statistics("tiny")
        assert client.get_model_repository_index()


def test_streams_health_and_reflection(ready):
    answers = []
    text = tritonclient.grpc.InferInput("text", [1], "BYTES")
    text.set_data_from_numpy(np.array([b"hello"], dtype=object))
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{ready['grpc_port']}") as client:
        client.start_stream(lambda result, error: answers.append((result, error)))
        client.async_stream_infer("tiny", [text])
        client.stop_stream()
    ((result, error),) = answers
    assert error is None
    assert result.as_numpy("label").tolist() == [b"hello"]
    with grpc.insecure_channel(f"127.0.0.1:{ready['grpc_port']}") as channel:
        assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status == 1
        asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService")
        (answer,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))
        assert answer.file_descriptor_response.file_descriptor_proto
