"""Bodies of the protocol over HTTP <-> plain values: JSON, and JSON with binary tensors behind it.

With binary tensors a body is the JSON header, whose length goes into ``Inference-Header-Content-Length``, and then the
raw bytes of each tensor that has the parameter ``binary_data_size``, in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from ..bundle.errors import EngineFailed, InvalidInput
from .codec_proto import refuse_extensions
from .codec_raw import NUMBERS, Array, bytes_array, decode_raw, element_count, encode_raw, numbers_array
from .json_large import LARGE
from .json_text import Members, dump_json, parse_json, read_members
from .tensors import InferRequest, InferResponse, Parameter, Tensor

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Name of the HTTP header with the length of the JSON part; absent where JSON is all."""

_NUMBER = 20
"""Characters of a number, about."""

_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "BYTES": (str,),
    "BOOL": (bool,),
    **{name: (int, float) if name.startswith("FP") else (int,) for name in NUMBERS if name != "BOOL"},
}


@dataclass(frozen=True)
class Body:
    """A message's body.

    Attributes:
        content: the bytes.
        header_length: length of the JSON part, where raw tensors follow it.
    """

    content: bytes
    header_length: int | None = None


@dataclass(frozen=True)
class OutputForm:
    """Which outputs a request wants as raw bytes.

    Attributes:
        binary: those that it doesn't name.
        named: those that it names.
    """

    binary: bool = False
    named: Mapping[str, bool] = field(default_factory=dict)

    def is_binary(self, name: str) -> bool:
        """Whether that output goes raw."""
        return self.named.get(name, self.binary)


def encode_request(request: InferRequest, *, binary: bool = True) -> Body:
    """The body of ``POST …/infer``; model and version go into the address.

    Args:
        request: what is asked.
        binary: send inputs and ask for outputs as raw bytes, else as JSON.

    Raises:
        InvalidInput: values that JSON can't carry: non-finite numbers, BYTES that are no UTF-8, FP16.
    """
    header: dict[str, Any] = {"id": request.id} if request.id else {}
    parameters = {**request.parameters, "binary_data_output": True} if binary else dict(request.parameters)
    if parameters:
        header["parameters"] = parameters
    header["inputs"], raw = _write_tensors("input", request.inputs, OutputForm(binary), InvalidInput)
    if request.outputs:
        header["outputs"] = [{"name": name, "parameters": {"binary_data": binary}} for name in request.outputs]
    return _join(header, raw, InvalidInput)


def decode_request(
    content: bytes, header_length: int | None = None, *, model: str, version: str = ""
) -> tuple[InferRequest, OutputForm]:
    """The request in a body of ``POST …/infer``, and the form its answer is wanted in.

    Args:
        content: the body.
        header_length: see :func:`read_header_length`.
        model: from the address.
        version: from the address.

    Raises:
        InvalidInput: no such JSON, or contents that don't make up the tensors.
        TooLarge: more raw texts than are taken apart.
        Unsupported: an extension that isn't served: shared memory, class counts.
    """
    header, raw = _split(content, header_length)
    parameters = _read_parameters(header)
    binary = parameters.pop("binary_data_output", False)
    if not isinstance(binary, bool):
        raise InvalidInput("parameter binary_data_output", found=repr(binary), wanted="true or false")
    names, named = [], {}
    for entry in header.objects("outputs", required=False):
        name = entry.text("name")
        own = entry.members("parameters", required=False)
        refuse_extensions(f"output {name}", own.values)
        names.append(name)
        named[name] = own.flag("binary_data", default=binary)
    inputs = _read_tensors("input", header.objects("inputs"), raw)
    request = InferRequest(model, inputs, version, header.text("id", default=""), tuple(names), parameters)
    return request, OutputForm(binary, named)


def encode_response(response: InferResponse, form: OutputForm | None = None) -> Body:
    """The body of an answer.

    Raises:
        EngineFailed: an output in JSON holds a number that is not finite.
        InvalidInput: an output in JSON that only raw bytes can carry: BYTES that are no UTF-8, FP16.
    """
    header: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if response.id:
        header["id"] = response.id
    if response.parameters:
        header["parameters"] = dict(response.parameters)
    header["outputs"], raw = _write_tensors("output", response.outputs, form or OutputForm(), EngineFailed)
    return _join(header, raw, EngineFailed, large=response_size(response) > LARGE)


def response_size(response: InferResponse) -> int:
    """About the bytes of an answer in JSON."""
    return _NUMBER * sum(tensor.data.size for tensor in response.outputs)


def decode_response(content: bytes, header_length: int | None = None) -> InferResponse:
    """The response in an answer's body.

    Raises:
        InvalidInput: no such JSON, or contents that don't make up the tensors.
    """
    header, raw = _split(content, header_length)
    return InferResponse(
        model=header.text("model_name"),
        version=header.text("model_version", default=""),
        id=header.text("id", default=""),
        outputs=_read_tensors("output", header.objects("outputs"), raw),
        parameters=_read_parameters(header),
    )


def read_header_length(text: str | None) -> int | None:
    """The value of the header ``Inference-Header-Content-Length``; None where it is absent.

    Raises:
        InvalidInput: no whole number.
    """
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise InvalidInput(HEADER_LENGTH, found=text, wanted="the number of bytes of the JSON part")
    return int(text)


def _join(
    header: object, raw: list[bytes] | None, kind: type[EngineFailed | InvalidInput], *, large: bool = False
) -> Body:
    text = dump_json(header, kind, large=large)
    return Body(text) if raw is None else Body(b"".join([text, *raw]), len(text))


def _split(content: bytes, header_length: int | None) -> tuple[Members, memoryview | None]:
    if header_length is None:
        return read_members("body", parse_json(content)), None
    if header_length > len(content):
        raise InvalidInput(HEADER_LENGTH, found=header_length, wanted=f"at most the body's {len(content)} bytes")
    return read_members("body", parse_json(content[:header_length])), memoryview(content)[header_length:]


def _read_parameters(header: Members) -> dict[str, Parameter]:
    parameters = header.members("parameters", required=False).values
    for name, value in parameters.items():
        if not isinstance(value, bool | int | float | str):
            raise InvalidInput(f"parameter {name}", found=type(value).__name__, wanted="a string, number or boolean")
    return dict(parameters)


def _write_tensors(
    kind: str, tensors: Sequence[Tensor], form: OutputForm, error: type[EngineFailed | InvalidInput]
) -> tuple[list[dict[str, object]], list[bytes] | None]:
    """Entries of the JSON part, and the raw bytes behind it; None where nothing goes raw."""
    entries: list[dict[str, object]] = []
    raw: list[bytes] | None = None
    for tensor in tensors:
        entry: dict[str, object] = {"name": tensor.name, "datatype": tensor.dtype, "shape": tensor.shape}
        if form.is_binary(tensor.name):
            blob = encode_raw(tensor)
            raw = raw if raw is not None else []
            raw.append(blob)
            entry["parameters"] = {"binary_data_size": len(blob)}
        else:
            entry["data"] = _json_data(f"{kind} {tensor.name}", tensor, error)
        entries.append(entry)
    return entries, raw


def _json_data(what: str, tensor: Tensor, error: type[EngineFailed | InvalidInput]) -> list[Any]:
    values: list[Any] = tensor.data.ravel().tolist()
    if tensor.dtype == "BYTES":
        try:
            return [element.decode() for element in values]
        except UnicodeDecodeError:
            raise InvalidInput(f"{what} as JSON", found="bytes that are no UTF-8", wanted="binary_data") from None
    if tensor.dtype == "FP16":
        raise InvalidInput(f"{what} as JSON", found="FP16", wanted="binary_data")
    if tensor.dtype.startswith("FP") and not np.isfinite(tensor.data).all():
        raise error(what, found="a number that is not finite", wanted="finite numbers")
    return values


def _read_tensors(kind: str, entries: Sequence[Members], raw: memoryview | None) -> tuple[Tensor, ...]:
    tensors, offset = [], 0
    for entry in entries:
        name, dtype, shape = entry.text("name"), entry.text("datatype"), entry.shape()
        what = f"{kind} {name}"
        own = entry.members("parameters", required=False)
        refuse_extensions(what, own.values)
        size = own.size("binary_data_size")
        if size is None:
            data = _read_data(what, dtype, shape, entry.values.get("data"))
        elif raw is None or "data" in entry.values:
            found = "binary_data_size beside data" if "data" in entry.values else f"no {HEADER_LENGTH}"
            raise InvalidInput(what, found=found, wanted=f"either data, or binary_data_size and {HEADER_LENGTH}")
        elif size > len(raw) - offset:
            found = f"{size}, with {len(raw) - offset} bytes left in the body"
            raise InvalidInput(f"binary_data_size of {what}", found=found, wanted="no more than are left")
        else:
            data = decode_raw(what, dtype, shape, raw[offset : offset + size])
            offset += size
        tensors.append(Tensor(name, dtype, data))
    if raw is not None and offset != len(raw):
        raise InvalidInput("body", found=f"{len(raw) - offset} bytes after the last {kind}", wanted="none")
    return tuple(tensors)


def _read_data(what: str, dtype: str, shape: Sequence[int], data: object) -> Array:
    count = element_count(what, dtype, shape)
    if dtype == "FP16":
        raise InvalidInput(f"data of {what}", found="FP16 as JSON", wanted="binary_data_size and raw bytes")
    if not isinstance(data, list):
        raise InvalidInput(f"data of {what}", found="none" if data is None else type(data).__name__, wanted="a list")
    values = _flat(what, data)
    if len(values) != count:
        raise InvalidInput(
            f"data of {what}", found=f"{len(values)} elements", wanted=f"{count} for {dtype} {list(shape)}"
        )
    types = _JSON_TYPES[dtype]
    odd = next((index for index, value in enumerate(values) if type(value) not in types), None)
    if odd is not None:
        raise InvalidInput(f"data[{odd}] of {what}", found=type(values[odd]).__name__, wanted=f"a value of {dtype}")
    if dtype == "BYTES":
        return bytes_array(shape, [text.encode() for text in values])
    numbers = numbers_array(what, dtype, shape, values)
    if dtype.startswith("FP") and not np.isfinite(numbers).all():
        raise InvalidInput(f"data of {what}", found="a number out of range", wanted=dtype)
    return numbers


def _flat(what: str, data: list[Any]) -> list[Any]:
    """Row-major values of a list that is flat or nested."""
    while data and any(isinstance(item, list) for item in data):
        if not all(isinstance(item, list) for item in data):
            raise InvalidInput(f"data of {what}", found="lists beside values", wanted="flat, or nested as the shape is")
        data = list(chain.from_iterable(data))
    return data
