"""Reflection as grpcurl uses it: services, files, messages, and then a call made of nothing but these."""

import grpc
import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2

from nlpdeploy.wire import oip
from support.fronts import serving_fronts

# The messages are the same in both versions, so one set of classes asks both.
VERSIONS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


@pytest.fixture(scope="module")
def channel(tmp_path_factory):
    with (
        serving_fronts(tmp_path_factory.mktemp("fronts")) as running,
        grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as made,
    ):
        yield made


def reflect(channel, service, *asked):
    """The answers to these questions, all asked on one stream."""
    call = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return list(call(iter([reflection_pb2.ServerReflectionRequest(**one) for one in asked]), timeout=20))


def files_of(channel, service, symbol):
    (answer,) = reflect(channel, service, {"file_containing_symbol": symbol})
    return answer.file_descriptor_response.file_descriptor_proto


@pytest.mark.parametrize("service", VERSIONS)
def test_the_services_are_listed_and_each_is_described(channel, service):
    (answer,) = reflect(channel, service, {"list_services": ""})
    listed = {entry.name for entry in answer.list_services_response.service}
    assert listed == {oip.SERVICE, "grpc.health.v1.Health", *VERSIONS}
    for symbol in listed:
        pool = DescriptorPool()
        for file in files_of(channel, service, symbol):
            pool.AddSerializedFile(file)
        assert pool.FindServiceByName(symbol).methods
    asked = [{"file_containing_symbol": "inference.ModelInferRequest"}, {"file_by_filename": "nothing.proto"}]
    found, missing = reflect(channel, service, *asked)
    assert found.file_descriptor_response.file_descriptor_proto
    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize("service", VERSIONS)
def test_a_method_is_found_by_its_full_name(channel, service):
    methods = (f"{oip.SERVICE}.ModelInfer", "grpc.health.v1.Health.Watch", f"{service}.ServerReflectionInfo")
    for method in methods:
        assert files_of(channel, service, method) == files_of(channel, service, method.rpartition(".")[0]) != []
    for symbol in (f"{oip.SERVICE}.Nothing", "nothing.Service.Method", "ModelInfer", ""):
        (answer,) = reflect(channel, service, {"file_containing_symbol": symbol})
        assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize("service", VERSIONS)
def test_a_call_can_be_made_of_what_reflection_says_alone(channel, service):
    pool = DescriptorPool()
    for file in files_of(channel, service, oip.SERVICE):
        pool.AddSerializedFile(file)
    method = pool.FindServiceByName(oip.SERVICE).FindMethodByName("ModelInfer")
    request, response = map(message_factory.GetMessageClass, (method.input_type, method.output_type))
    text = """{"model_name": "tiny", "inputs": [
        {"name": "text", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": ["aGVsbG8="]}}]}"""
    call = channel.unary_unary(
        f"/{oip.SERVICE}/ModelInfer",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    answer = call(json_format.Parse(text, request(), descriptor_pool=pool), timeout=20)
    assert answer.raw_output_contents[0] == b"\x05\0\0\0hello"


def test_version_1_names_its_own_messages(channel):
    (file,) = map(FileDescriptorProto.FromString, files_of(channel, VERSIONS[0], VERSIONS[0]))
    assert file.package == "grpc.reflection.v1"
    assert file.service[0].method[0].input_type == ".grpc.reflection.v1.ServerReflectionRequest"
    names = {message.name for message in file.message_type}
    inner = {field.type_name for message in file.message_type for field in message.field if field.type_name}
    assert inner
    assert {name.removeprefix(".grpc.reflection.v1.") for name in inner} <= names
