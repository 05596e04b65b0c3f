"""Requests -> questions: names, dtypes, ranks and values checked against the model. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..bundle.errors import InvalidInput
from ..bundle.specs import ModelSpec
from ..runtime.text import Row
from ..wire.tensors import InferRequest, Parameter, Tensor
from .job import Question
from .ticket import Priority

TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
SEGMENTS = 2
"""Token types that encoders know: first and second text."""


def rows_asked(request: InferRequest) -> int:
    """How many rows a request has, before it is checked: the longest first axis of its inputs."""
    return max((tensor.shape[0] for tensor in request.inputs if tensor.shape), default=0)


def read_request(request: InferRequest, model: ModelSpec, vocabulary: int) -> Question:
    """The question of a ``ModelInfer``.

    Args:
        request: by text (``text`` BYTES [n] or [n, 1], for pairs also ``text_pair``), or by tokens (``input_ids`` INT64
            [n, length] with optional ``attention_mask`` and ``token_type_ids`` of the same shape).
        model: what the model takes and gives.
        vocabulary: number of token ids.

    Raises:
        InvalidInput: an input missing, unknown or given twice; a wrong dtype or shape; text that is no UTF-8; token ids
            out of range; an unknown output; a priority that is none.
    """
    inputs = {tensor.name: tensor for tensor in request.inputs}
    if len(inputs) != len(request.inputs):
        raise InvalidInput("inputs", found="one name twice", wanted="each name once")
    by_tokens = "input_ids" in inputs
    outputs = _wanted_outputs(request.outputs, model, by_tokens=by_tokens)
    priority = read_priority(request.parameters)
    if by_tokens:
        _check_names(inputs, required=("input_ids",), allowed=TOKEN_INPUTS)
        return Question((), None, _token_rows(inputs, model, vocabulary), outputs, priority)
    names = tuple(spec.name for spec in model.text_inputs())
    _check_names(inputs, required=names, allowed=names)
    texts = _texts(inputs["text"])
    pairs = _texts(inputs["text_pair"]) if model.pair else None
    return text_question(texts, pairs, outputs, priority)


def text_question(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    outputs: tuple[str, ...],
    priority: Priority = Priority.NORMAL,
) -> Question:
    """A question by text.

    Raises:
        InvalidInput: not as many second texts as first ones.
    """
    if pairs is not None and len(pairs) != len(texts):
        raise InvalidInput("text_pair", found=f"{len(pairs)} texts", wanted=f"{len(texts)}, as many as text")
    return Question(texts, pairs, None, outputs, priority)


def read_body(body: object, model: ModelSpec) -> tuple[Question, bool]:
    """The question of a plain HTTP body, and whether it asks for one text (not for a list).

    Raises:
        InvalidInput: not ``{"text": …}`` with a string or a list of strings, for pairs with ``text_pair`` alike.
    """
    names = tuple([spec.name for spec in model.text_inputs()])
    if not isinstance(body, Mapping):
        example = ", ".join(f'"{name}": "…"' for name in names)
        raise InvalidInput("body", found=type(body).__name__, wanted=f"{{{example}}}")
    _check_names(body, required=names, allowed=names)
    single = isinstance(body["text"], str)
    columns = [_strings(name, body[name], single=single) for name in names]
    outputs = tuple([spec.name for spec in model.default_outputs()])
    return text_question(columns[0], columns[1] if model.pair else None, outputs), single


def read_timeout(parameters: Mapping[str, Parameter]) -> float:
    """Seconds of the ``timeout`` parameter, which is in whole microseconds; infinity where it is absent or 0.

    Raises:
        InvalidInput: no whole number, negative, or more than 64 bits.
    """
    timeout = parameters.get("timeout", 0)
    if isinstance(timeout, bool) or not isinstance(timeout, int) or timeout < 0:
        raise InvalidInput(
            "parameter timeout", found=repr(timeout), wanted="microseconds as a whole number, 0 for none"
        )
    if timeout >= 2**64:
        raise InvalidInput("parameter timeout", found="an integer of more than 64 bits", wanted="microseconds")
    return timeout / 1e6 if timeout else math.inf


def read_priority(parameters: Mapping[str, Parameter]) -> Priority:
    """The ``priority`` parameter: 1 goes first; 0 is the default as in Triton, and all from 2 on are normal.

    Raises:
        InvalidInput: no whole number, or negative.
    """
    priority = parameters.get("priority", 0)
    if isinstance(priority, bool) or not isinstance(priority, int) or priority < 0:
        raise InvalidInput("parameter priority", found=repr(priority)[:40], wanted="1 for high, 0 or 2 for normal")
    return Priority.HIGH if priority == Priority.HIGH else Priority.NORMAL


def _check_names(given: Mapping[str, object], *, required: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    unknown = [str(name) for name in given if name not in allowed]
    missing = [name for name in required if name not in given]
    if unknown or missing:
        found = ", ".join(map(str, given)) or "none"
        raise InvalidInput("inputs", found=found, wanted=", ".join(required))


def _wanted_outputs(asked: tuple[str, ...], model: ModelSpec, *, by_tokens: bool) -> tuple[str, ...]:
    if not asked:
        return ("logits",) if by_tokens else tuple(spec.name for spec in model.default_outputs())
    known = tuple(spec.name for spec in model.outputs())
    for name in asked:
        if name not in known:
            raise InvalidInput("output", found=name, wanted=f"one of {', '.join(known)}")
    if len(set(asked)) != len(asked):
        raise InvalidInput("outputs", found="one name twice", wanted="each name once")
    return asked


def _strings(name: str, value: object, *, single: bool) -> list[str]:
    if single and isinstance(value, str):
        return [value]
    if not single and isinstance(value, list):
        odd = next((index for index, item in enumerate(value) if not isinstance(item, str)), None)
        if odd is None:
            return value
        raise InvalidInput(f"{name}[{odd}]", found=type(value[odd]).__name__, wanted="a string")
    wanted = "a string" if single and name != "text" else "a string or a list of strings"
    raise InvalidInput(name, found=type(value).__name__, wanted=wanted)


def _texts(tensor: Tensor) -> list[str]:
    _check_dtype(tensor, "BYTES")
    shape = tensor.shape
    if len(shape) != 1 and not (len(shape) == 2 and shape[1] == 1):
        raise InvalidInput(f"shape of input {tensor.name}", found=list(shape), wanted="[n] or [n, 1]")
    texts = []
    for index, raw in enumerate(tensor.data.ravel().tolist()):
        try:
            texts.append(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            found = f"byte {error.object[error.start]:#04x} at {error.start}"
            raise InvalidInput(f"{tensor.name}[{index}]", found=found, wanted="UTF-8") from None
    return texts


def _token_rows(inputs: Mapping[str, Tensor], model: ModelSpec, vocabulary: int) -> list[Row]:
    ids = _token_matrix(inputs["input_ids"], None)
    mask = _token_matrix(inputs["attention_mask"], ids) if "attention_mask" in inputs else np.ones_like(ids)
    types = _token_matrix(inputs["token_type_ids"], ids) if "token_type_ids" in inputs else np.zeros_like(ids)
    _check_range("attention_mask", mask, 2)
    lengths = mask.sum(axis=1)
    if (mask[:, 1:] > mask[:, :-1]).any():
        raise InvalidInput("attention_mask", found="a 1 after a 0", wanted="ones, then zeros in each row")
    rows = [Row(ids[i, :n], types[i, :n]) for i, n in enumerate(lengths.tolist())]
    for index, row in enumerate(rows):
        if not 1 <= len(row) <= model.max_length:
            raise InvalidInput(f"tokens of row {index}", found=len(row), wanted=f"1 to {model.max_length}")
        _check_range(f"input_ids of row {index}", row.input_ids, vocabulary)
        _check_range(f"token_type_ids of row {index}", row.token_type_ids, SEGMENTS)
    return rows


def _token_matrix(tensor: Tensor, like: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64]:
    _check_dtype(tensor, "INT64")
    if len(tensor.shape) != 2:
        raise InvalidInput(f"shape of input {tensor.name}", found=list(tensor.shape), wanted="[n, length]")
    if like is not None and tensor.shape != like.shape:
        raise InvalidInput(f"shape of input {tensor.name}", found=list(tensor.shape), wanted=list(like.shape))
    return np.asarray(tensor.data, dtype=np.int64)


def _check_dtype(tensor: Tensor, wanted: str) -> None:
    if tensor.dtype != wanted:
        raise InvalidInput(f"dtype of input {tensor.name}", found=tensor.dtype, wanted=wanted)


def _check_range(name: str, values: npt.NDArray[np.int64], end: int) -> None:
    outside = values[(values < 0) | (values >= end)]
    if outside.size:
        raise InvalidInput(name, found=int(outside[0]), wanted=f"0 to {end - 1}")
