"""Logits -> the outputs asked for, as tensors of the protocol or as plain JSON values. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bundle.specs import ModelSpec
from ..runtime.tasks import Floats, decode
from ..runtime.text import Row
from ..wire.tensors import InferResponse, Parameter, Tensor

DTYPES = {
    np.dtype(np.float32): "FP32",
    np.dtype(np.int32): "INT32",
    np.dtype(np.bool_): "BOOL",
    np.dtype(np.object_): "BYTES",
}
"""The protocol's word for what tasks answer with; text is an object array."""


@dataclass(frozen=True)
class Inference:
    """An answer and the seconds of its stages: encode, queue, infer, decode."""

    response: InferResponse
    stages: Mapping[str, float]


@dataclass(frozen=True)
class PredictAnswer:
    """A plain HTTP answer.

    Attributes:
        answer: ``{"label": …, "score": …}`` for one text, ``{"predictions": [{…}, …]}`` for a list.
        stages: seconds: encode, queue, infer, decode.
        parameters: ``bundle_digest``, ``engine`` and, if any row was cut, ``truncated_rows``.
    """

    answer: dict[str, Any]
    stages: Mapping[str, float]
    parameters: Mapping[str, Parameter]


def output_tensors(logits: Floats, rows: Sequence[Row], model: ModelSpec, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    """The named outputs, rows first, in the order of ``names``; dtypes as :meth:`ModelSpec.outputs` says."""
    arrays = _decoded(logits, rows, model)
    return tuple(_tensor(name, arrays[name]) for name in names)


def predictions(logits: Floats, rows: Sequence[Row], model: ModelSpec, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """One dict a row with the named outputs as JSON's own types."""
    arrays = _decoded(logits, rows, model)
    columns = [arrays[name].tolist() for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def answer_parameters(rows: Sequence[Row], *, digest: str, engine: str) -> dict[str, Parameter]:
    """What every answer says of itself: the bundle, the engine, and how many rows were cut if any was."""
    parameters: dict[str, Parameter] = {"bundle_digest": digest, "engine": engine}
    truncated = sum(row.truncated for row in rows)
    if truncated:
        parameters["truncated_rows"] = truncated
    return parameters


def _decoded(logits: Floats, rows: Sequence[Row], model: ModelSpec) -> dict[str, npt.NDArray[np.generic]]:
    return {
        **decode(logits, model),
        "tokens": np.array([len(row) for row in rows], dtype=np.int32),
        "truncated": np.array([row.truncated for row in rows], dtype=np.bool_),
    }


def _tensor(name: str, values: npt.NDArray[np.generic]) -> Tensor:
    dtype = DTYPES[values.dtype]
    if dtype == "BYTES":
        return Tensor(name, dtype, np.array([str(text).encode() for text in values.tolist()], dtype=object))
    return Tensor(name, dtype, np.ascontiguousarray(values))
