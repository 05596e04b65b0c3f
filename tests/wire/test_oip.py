"""Messages: the same on the wire as those of clients nobody here wrote, and beside them in one process."""

import subprocess
import sys

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto

from nlpdeploy.wire import oip

ours_first = "import nlpdeploy.wire.oip as oip; import tritonclient.grpc as client"
ours_last = "import tritonclient.grpc as client; import nlpdeploy.wire.oip as oip"


@pytest.mark.parametrize("imports", [ours_first, ours_last])
def test_stands_beside_another_package_with_the_same_messages_in_either_order(imports):
    code = (
        f"{imports}\nfrom tritonclient.grpc import service_pb2\n"
        "theirs = service_pb2.ModelInferRequest(model_name='m', raw_input_contents=[b'x'])\n"
        "ours = oip.ModelInferRequest.FromString(theirs.SerializeToString())\n"
        "assert type(ours) is not type(theirs)\n"
        "print(ours.model_name, ours.raw_input_contents[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "m b'x'", done.stderr


def declared(messages, prefix=""):
    for message in messages:
        yield prefix + message.name, message
        yield from declared(message.nested_type, f"{prefix}{message.name}.")


def facts(message: DescriptorProto):
    groups = [group.name for group in message.oneof_decl]
    return {
        field.name: (
            field.number,
            field.type,
            field.label,
            field.type_name,
            groups[field.oneof_index] if field.HasField("oneof_index") else None,
        )
        for field in message.field
    }


def reference_messages() -> dict[str, DescriptorProto]:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from tritonclient.grpc import model_config_pb2, service_pb2

    found = {}
    for module in (service_pb2, model_config_pb2):
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        found.update(declared(file.message_type))
    return found


OURS = dict(declared(oip.FILE.message_type))
# Of the model's configuration only what clients of a text model read is declared.
PARTIAL = {"ModelConfig", "ModelInput", "ModelOutput", "ModelDynamicBatching"}


@pytest.mark.parametrize("name", OURS)
def test_every_message_has_the_reference_s_fields_numbers_types_and_labels(name):
    ours, theirs = facts(OURS[name]), facts(reference_messages()[name])
    if name in PARTIAL:
        assert ours.items() <= theirs.items()
    else:
        assert ours == theirs


def test_the_enum_has_the_reference_s_numbers():
    from tritonclient.grpc import model_config_pb2

    theirs = EnumDescriptorProto()
    model_config_pb2.DataType.DESCRIPTOR.CopyToProto(theirs)
    (ours,) = oip.FILE.enum_type
    assert {value.name: value.number for value in ours.value} == {value.name: value.number for value in theirs.value}


def test_every_method_has_the_reference_s_messages_and_direction():
    from tritonclient.grpc import service_pb2

    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    for name, method in oip.METHODS.items():
        assert method.path == f"/inference.GRPCInferenceService/{name}"
        assert method.request.DESCRIPTOR.full_name == theirs[name].input_type.full_name
        assert method.response.DESCRIPTOR.full_name == theirs[name].output_type.full_name
        assert method.streaming == theirs[name].client_streaming == theirs[name].server_streaming
    assert {"ServerLive", "ModelInfer", "ModelConfig", "ModelStatistics", "RepositoryIndex"} <= set(oip.METHODS)
