"""Tensors <-> raw bytes: little-endian, row-major; BYTES as a little-endian uint32 length and the bytes, each element.

What a sender claims is checked against the bytes that are there before anything of that size is made.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bundle.errors import InvalidInput, TooLarge
from .tensors import Tensor

NUMBERS: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}
"""Datatypes of fixed size; the only other one is BYTES."""

Array = npt.NDArray[np.generic]

_LENGTH = struct.Struct("<I")
_MAX_AXES = 32
_MAX_ELEMENTS = 2**31 - 1  # no message is larger, and each element takes a byte at least
_MAX_TEXTS = 2**18
"""Elements of a BYTES tensor. A message of 32 MiB has room for eight million empty ones; parting them takes seconds in
which nobody else is answered."""


def element_count(what: str, dtype: str, shape: Sequence[int]) -> int:
    """Number of elements of a tensor as its sender describes it.

    Raises:
        InvalidInput: an unknown datatype, a negative axis, or more axes or elements than any message can hold.
    """
    if dtype != "BYTES" and dtype not in NUMBERS:
        raise InvalidInput(f"datatype of {what}", found=dtype or "none", wanted=f"BYTES, {', '.join(NUMBERS)}")
    if len(shape) > _MAX_AXES:
        raise InvalidInput(f"shape of {what}", found=f"{len(shape)} axes", wanted=f"at most {_MAX_AXES}")
    if any(axis < 0 for axis in shape):
        raise InvalidInput(f"shape of {what}", found=list(shape), wanted="no negative axis")
    if math.prod(max(axis, 1) for axis in shape) > _MAX_ELEMENTS:
        raise InvalidInput(f"shape of {what}", found=list(shape), wanted=f"at most {_MAX_ELEMENTS} elements")
    return math.prod(shape)


def check_texts(what: str, count: int) -> None:
    """Refuse more elements of BYTES than are taken apart.

    Raises:
        TooLarge: they are more.
    """
    if count > _MAX_TEXTS:
        raise TooLarge(f"elements of {what}", found=count, wanted=f"at most {_MAX_TEXTS}")


def encode_raw(tensor: Tensor) -> bytes:
    """Raw bytes of a tensor.

    Raises:
        InvalidInput: an unknown datatype, or an element of BYTES that is no ``bytes``.
    """
    if tensor.dtype == "BYTES":
        parts: list[bytes] = []
        for element in tensor.data.ravel().tolist():
            if not isinstance(element, bytes):
                raise InvalidInput(f"element of {tensor.name}", found=type(element).__name__, wanted="bytes")
            parts += (_LENGTH.pack(len(element)), element)
        return b"".join(parts)
    element_count(tensor.name, tensor.dtype, tensor.shape)
    return tensor.data.astype(NUMBERS[tensor.dtype].newbyteorder("<"), copy=False).tobytes()


def decode_raw(what: str, dtype: str, shape: Sequence[int], raw: bytes | memoryview) -> Array:
    """The values in raw bytes.

    Args:
        what: the tensor, for messages, e.g. ``input text``.
        dtype: datatype as claimed.
        shape: as claimed.
        raw: all bytes of this tensor and no others.

    Returns:
        An array of ``shape``, possibly a read-only view of ``raw``; of objects (``bytes``) for BYTES.

    Raises:
        InvalidInput: the bytes don't make up that datatype and shape.
        TooLarge: more texts than are taken apart.
    """
    count = element_count(what, dtype, shape)
    if dtype == "BYTES":
        return bytes_array(shape, _split(what, count, raw))
    numbers = NUMBERS[dtype]
    if len(raw) != count * numbers.itemsize:
        wanted = f"{count * numbers.itemsize} for {dtype} {list(shape)}"
        raise InvalidInput(f"raw bytes of {what}", found=f"{len(raw)} bytes", wanted=wanted)
    if dtype == "BOOL":  # a byte other than 0 and 1 would be a value that numpy doesn't know
        return np.frombuffer(raw, dtype=np.uint8).reshape(shape).astype(np.bool_)
    return np.asarray(np.frombuffer(raw, dtype=numbers.newbyteorder("<")), dtype=numbers).reshape(shape)


def bytes_array(shape: Sequence[int], elements: Sequence[bytes]) -> Array:
    """An array of as many ``bytes`` as ``shape`` holds."""
    data: npt.NDArray[np.object_] = np.empty(len(elements), dtype=object)
    data[:] = elements
    return data.reshape(shape)


def numbers_array(what: str, dtype: str, shape: Sequence[int], values: Sequence[int | float]) -> Array:
    """An array of as many numbers (or ``bool``) as ``shape`` holds; FP32 from a large number is infinite.

    Raises:
        InvalidInput: an integer out of the datatype's range.
    """
    numbers = NUMBERS[dtype]
    if numbers.kind in "iu" and len(values):
        info = np.iinfo(numbers)
        odd = next((value for value in (min(values), max(values)) if not info.min <= value <= info.max), None)
        if odd is not None:
            found = odd if abs(odd) <= 2**64 else "an integer of more than 64 bits"
            raise InvalidInput(
                f"value of {what}",
                found=found,
                wanted=f"{info.min} to {info.max} for {dtype}",
            )
    try:
        wide = np.array(values, dtype=np.float64 if numbers.kind == "f" else numbers)
    except OverflowError:
        raise InvalidInput(f"value of {what}", found="an integer past 1e308", wanted=dtype) from None
    with np.errstate(over="ignore"):
        return np.asarray(wide, dtype=numbers).reshape(shape)


def _split(what: str, count: int, raw: bytes | memoryview) -> list[bytes]:
    size, offset = len(raw), 0
    if count * _LENGTH.size > size:
        wanted = f"at least {count * _LENGTH.size} for {count} elements, each with a 4-byte length before it"
        raise InvalidInput(f"raw bytes of {what}", found=f"{size} bytes", wanted=wanted)
    check_texts(what, count)
    elements = []
    for index in range(count):
        if size - offset < _LENGTH.size:
            found = f"{size - offset} bytes left"
            raise InvalidInput(f"raw bytes of {what}, element {index}", found=found, wanted="a 4-byte length")
        (length,) = _LENGTH.unpack_from(raw, offset)
        offset += _LENGTH.size
        if length > size - offset:
            raise InvalidInput(
                f"raw bytes of {what}, element {index}",
                found=f"a length of {length} bytes and {size - offset} bytes left",
                wanted="each element after its length as a little-endian uint32",
            )
        elements.append(bytes(raw[offset : offset + length]))
        offset += length
    if offset != size:
        found = f"{size - offset} bytes after the last of {count} elements"
        raise InvalidInput(f"raw bytes of {what}", found=found, wanted="none")
    return elements
