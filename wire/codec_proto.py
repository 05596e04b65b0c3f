"""Protobuf messages <-> plain values. Both directions of both, for the server, the load-test client and Python clients.

Tensors are read from raw and from typed contents and always written raw: some clients read nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from google.protobuf.message import DecodeError

from ..bundle.errors import InvalidInput, Unsupported
from ..bundle.specs import TensorSpec
from . import oip
from .codec_raw import bytes_array, check_texts, decode_raw, element_count, encode_raw, numbers_array
from .oip import Message
from .tensors import InferRequest, InferResponse, ModelMetadata, Parameter, ServerMetadata, Tensor

_TYPED_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Datatype -> field of ``InferTensorContents``. FP16 has none: it goes raw."""

_INT64_MAX = 2**63 - 1


def encode_request(request: InferRequest) -> Message:
    """The ``ModelInferRequest`` of a request, inputs raw.

    Raises:
        InvalidInput: a tensor or a parameter that the protocol can't carry.
    """
    message = oip.ModelInferRequest(model_name=request.model, model_version=request.version, id=request.id)
    _write_parameters(message.parameters, request.parameters)
    for name in request.outputs:
        message.outputs.add(name=name)
    for tensor in request.inputs:
        message.inputs.add(name=tensor.name, datatype=tensor.dtype, shape=tensor.shape)
        message.raw_input_contents.append(encode_raw(tensor))
    return message


def parse_message(kind: type[Message], raw: bytes) -> Message:
    """The message in its bytes.

    Raises:
        InvalidInput: they are none of this kind.
    """
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise InvalidInput("request", found=f"no {kind.DESCRIPTOR.full_name}") from None


def decode_request(message: Message) -> InferRequest:
    """The request in a ``ModelInferRequest``.

    Raises:
        InvalidInput: contents that don't make up the tensors.
        TooLarge: more texts than are taken apart.
        Unsupported: an extension that isn't served: shared memory, class counts.
    """
    for output in message.outputs:
        refuse_extensions(f"output {output.name}", output.parameters)
    return InferRequest(
        model=message.model_name,
        version=message.model_version,
        id=message.id,
        inputs=_read_tensors("input", message.inputs, message.raw_input_contents),
        outputs=tuple(output.name for output in message.outputs),
        parameters=_read_parameters(message.parameters),
    )


def encode_response(response: InferResponse) -> Message:
    """The ``ModelInferResponse`` of a response, outputs raw.

    Raises:
        InvalidInput: a tensor or a parameter that the protocol can't carry.
    """
    message = oip.ModelInferResponse(model_name=response.model, model_version=response.version, id=response.id)
    _write_parameters(message.parameters, response.parameters)
    for tensor in response.outputs:
        message.outputs.add(name=tensor.name, datatype=tensor.dtype, shape=tensor.shape)
        message.raw_output_contents.append(encode_raw(tensor))
    return message


def decode_response(message: Message) -> InferResponse:
    """The response in a ``ModelInferResponse``.

    Raises:
        InvalidInput: contents that don't make up the tensors.
    """
    return InferResponse(
        model=message.model_name,
        version=message.model_version,
        id=message.id,
        outputs=_read_tensors("output", message.outputs, message.raw_output_contents),
        parameters=_read_parameters(message.parameters),
    )


def encode_model_metadata(metadata: ModelMetadata) -> Message:
    """The ``ModelMetadataResponse``; its message has no place for properties."""
    message = oip.METHODS["ModelMetadata"].response(
        name=metadata.name, versions=metadata.versions, platform=metadata.platform
    )
    for side, specs in ((message.inputs, metadata.inputs), (message.outputs, metadata.outputs)):
        for spec in specs:
            side.add(name=spec.name, datatype=spec.dtype, shape=spec.shape)
    return message


def decode_model_metadata(message: Message) -> ModelMetadata:
    """What a ``ModelMetadataResponse`` says."""
    inputs, outputs = (
        tuple(TensorSpec(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in side)
        for side in (message.inputs, message.outputs)
    )
    return ModelMetadata(message.name, tuple(message.versions), message.platform, inputs, outputs)


def encode_server_metadata(metadata: ServerMetadata) -> Message:
    """The ``ServerMetadataResponse``."""
    return oip.METHODS["ServerMetadata"].response(
        name=metadata.name, version=metadata.version, extensions=metadata.extensions
    )


def decode_server_metadata(message: Message) -> ServerMetadata:
    """What a ``ServerMetadataResponse`` says."""
    return ServerMetadata(message.name, message.version, tuple(message.extensions))


def refuse_extensions(what: str, parameters: Mapping[str, object]) -> None:
    """Refuse what would change a tensor's meaning if it were ignored.

    Raises:
        Unsupported: shared memory, or the classification extension's class count.
    """
    if any(name.startswith("shared_memory") for name in parameters):
        raise Unsupported(f"shared memory for {what}", mend="send and ask for tensors in the message itself")
    if "classification" in parameters:
        raise Unsupported(f"class count for {what}", mend="ask for the outputs label and score, or scores")


def _read_tensors(kind: str, tensors: Sequence[Message], raw: Sequence[bytes]) -> tuple[Tensor, ...]:
    if not raw:
        return tuple(_read_typed(f"{kind} {tensor.name}", tensor) for tensor in tensors)
    if len(raw) != len(tensors):
        raise InvalidInput(f"raw {kind} contents", found=len(raw), wanted=f"{len(tensors)}, one for each {kind}")
    read = []
    for tensor, blob in zip(tensors, raw, strict=True):
        refuse_extensions(f"{kind} {tensor.name}", tensor.parameters)
        if tensor.contents.ByteSize():
            raise InvalidInput(f"{kind} {tensor.name}", found="typed contents beside raw ones", wanted="either")
        data = decode_raw(f"{kind} {tensor.name}", tensor.datatype, tensor.shape, blob)
        read.append(Tensor(tensor.name, tensor.datatype, data))
    return tuple(read)


def _read_typed(what: str, tensor: Message) -> Tensor:
    refuse_extensions(what, tensor.parameters)
    dtype, shape = tensor.datatype, tensor.shape
    count = element_count(what, dtype, shape)
    if dtype not in _TYPED_FIELDS:
        raise InvalidInput(
            f"contents of {what}", found=f"none raw for {dtype}", wanted="raw contents for this datatype"
        )
    field = _TYPED_FIELDS[dtype]
    others = [descriptor.name for descriptor, _ in tensor.contents.ListFields() if descriptor.name != field]
    if others:
        raise InvalidInput(f"contents of {what}", found=", ".join(others), wanted=f"{field} for {dtype}")
    values = getattr(tensor.contents, field)
    if len(values) != count:
        wanted = f"{count} for {dtype} {list(shape)}"
        raise InvalidInput(f"{field} of {what}", found=f"{len(values)} elements", wanted=wanted)
    if dtype == "BYTES":
        check_texts(what, count)
        return Tensor(tensor.name, dtype, bytes_array(shape, values))
    return Tensor(tensor.name, dtype, numbers_array(what, dtype, shape, values))


def _write_parameters(target: Message, parameters: Mapping[str, Parameter]) -> None:
    for name, value in parameters.items():
        if isinstance(value, bool):
            target[name].bool_param = value
        elif isinstance(value, int):
            if not -_INT64_MAX - 1 <= value <= 2 * _INT64_MAX + 1:
                raise InvalidInput(f"parameter {name}", found=value, wanted="an integer of 64 bits")
            setattr(target[name], "int64_param" if value <= _INT64_MAX else "uint64_param", value)
        elif isinstance(value, float):
            target[name].double_param = value
        else:
            target[name].string_param = value


def _read_parameters(parameters: Mapping[str, Message]) -> dict[str, Parameter]:
    read: dict[str, Parameter] = {}
    for name, parameter in parameters.items():
        chosen = parameter.WhichOneof("parameter_choice")
        if chosen is None:
            raise InvalidInput(f"parameter {name}", found="no value", wanted="one of its five kinds")
        read[name] = getattr(parameter, chosen)
    return read
