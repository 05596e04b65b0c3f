"""Message classes and method table of the Open Inference Protocol v2, built at import in a private descriptor pool.

Private, since two packages that put ``inference.*`` into protobuf's default pool can't live in one process: these
classes stand beside ``tritonclient.grpc`` and ``kserve`` in either order of import.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from .schema import ENUMS, MESSAGES, UNARY_METHODS

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

Message = Any
"""A protobuf message of a class that exists at run time only."""

_SCALARS = {
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "int32": FieldDescriptorProto.TYPE_INT32,
    "int64": FieldDescriptorProto.TYPE_INT64,
    "uint32": FieldDescriptorProto.TYPE_UINT32,
    "uint64": FieldDescriptorProto.TYPE_UINT64,
    "float": FieldDescriptorProto.TYPE_FLOAT,
    "double": FieldDescriptorProto.TYPE_DOUBLE,
    "string": FieldDescriptorProto.TYPE_STRING,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
}
_FIELD = re.compile(
    r"  (?:(?P<repeated>repeated) |oneof (?P<oneof>\w+) )?"
    r"(?:map<(?P<map>[\w.]+)>|(?P<type>[\w.]+)) (?P<name>\w+) = (?P<number>\d+)"
)


@dataclass(frozen=True)
class Method:
    """A call of the service.

    Attributes:
        name: e.g. ``ModelInfer``.
        request: message class of what is sent.
        response: message class of what comes back.
        streaming: whether both are streams.
    """

    name: str
    request: type[Message]
    response: type[Message]
    streaming: bool = False

    @property
    def path(self) -> str:
        """As a gRPC channel wants it."""
        return f"/{SERVICE}/{self.name}"


def _build_file() -> FileDescriptorProto:
    file = FileDescriptorProto(name="open_inference.proto", package=PACKAGE, syntax="proto3")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    messages: dict[str, DescriptorProto] = {}
    owner = ""
    for line in filter(None, MESSAGES.splitlines()):
        if line.startswith("message "):
            owner = line.removeprefix("message ")
            outer, _, name = owner.rpartition(".")
            messages[owner] = (messages[outer].nested_type if outer else file.message_type).add(name=name)
        else:
            _add_field(messages[owner], owner, line)
    service = file.service.add(name=SERVICE.rpartition(".")[2])
    for name in UNARY_METHODS:
        service.method.add(name=name, input_type=_full(f"{name}Request"), output_type=_full(f"{name}Response"))
    service.method.add(
        name="ModelStreamInfer",
        input_type=_full("ModelInferRequest"),
        output_type=_full("ModelStreamInferResponse"),
        client_streaming=True,
        server_streaming=True,
    )
    return file


def _full(name: str) -> str:
    return f".{PACKAGE}.{name}"


def _add_field(message: DescriptorProto, owner: str, line: str) -> None:
    found = _FIELD.fullmatch(line)
    if found is None:
        raise ValueError(f"no field: {line}")
    field = message.field.add(name=found["name"], number=int(found["number"]))
    many = found["repeated"] or found["map"]
    field.label = FieldDescriptorProto.LABEL_REPEATED if many else FieldDescriptorProto.LABEL_OPTIONAL
    if found["map"]:
        # A map is a repeated entry message with key and value, by the name that protoc gives it.
        entry = message.nested_type.add(name="".join(map(str.capitalize, found["name"].split("_"))) + "Entry")
        entry.options.map_entry = True
        for part in ("  string key = 1", f"  {found['map']} value = 2"):
            _add_field(entry, f"{owner}.{entry.name}", part)
        _set_type(field, f"{owner}.{entry.name}")
    else:
        _set_type(field, found["type"])
    if found["oneof"]:
        if found["oneof"] not in [group.name for group in message.oneof_decl]:
            message.oneof_decl.add(name=found["oneof"])
        field.oneof_index = [group.name for group in message.oneof_decl].index(found["oneof"])


def _set_type(field: FieldDescriptorProto, name: str) -> None:
    if name in _SCALARS:
        field.type = _SCALARS[name]
    else:
        field.type = FieldDescriptorProto.TYPE_ENUM if name in ENUMS else FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = _full(name)


FILE = _build_file()
"""The whole protocol as a descriptor, e.g. for a pool that server reflection reads."""

POOL = descriptor_pool.DescriptorPool()
POOL.AddSerializedFile(FILE.SerializeToString())


def _message(name: str) -> type[Message]:
    cls: type[Message] = message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))
    return cls


def _methods() -> Mapping[str, Method]:
    described = POOL.FindServiceByName(SERVICE).methods_by_name.values()
    return {
        method.name: Method(
            method.name, _message(method.input_type.name), _message(method.output_type.name), method.client_streaming
        )
        for method in described
    }


METHODS = _methods()
"""Name -> call, for all that are declared; which of them are served is the server's matter."""

InferParameter = _message("InferParameter")
InferTensorContents = _message("InferTensorContents")
ModelInferRequest = METHODS["ModelInfer"].request
ModelInferResponse = METHODS["ModelInfer"].response
