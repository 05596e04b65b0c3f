"""Scored rows -> the outputs asked for, as tensors of the protocol or as plain JSON values. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..bundle.specs import ModelSpec
from ..runtime.tasks import Scored
from ..runtime.text import Row
from ..wire.tensors import InferResponse, Parameter, Tensor


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


class AnswerForm:
    """One model's outputs as answers name them.

    Args:
        model: its task and labels.
    """

    def __init__(self, model: ModelSpec) -> None:
        self._labels = model.labels
        self._label_bytes = tuple(label.encode() for label in model.labels)

    def tensors(self, rows: Sequence[Row], scored: Mapping[int, Scored], names: tuple[str, ...]) -> tuple[Tensor, ...]:
        """The named outputs, rows first, in the order of ``names``; dtypes as :meth:`ModelSpec.outputs` says.

        Args:
            rows: what was asked.
            scored: each row's outputs by its number.
            names: of the task's outputs.
        """
        ordered = [scored[index] for index in range(len(rows))]
        return tuple(self._tensor(name, rows, ordered) for name in names)

    def values(self, rows: Sequence[Row], scored: Mapping[int, Scored], names: tuple[str, ...]) -> list[dict[str, Any]]:
        """One dict a row with the named outputs, ``label`` and ``score``, as JSON's own types."""
        ordered = [scored[index] for index in range(len(rows))]
        if names == ("label", "score"):
            return [{"label": self._labels[row.top], "score": row.score} for row in ordered]
        columns = [self._tensor(name, rows, ordered).data.tolist() for name in names]
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]

    def _tensor(self, name: str, rows: Sequence[Row], scored: Sequence[Scored]) -> Tensor:
        if name == "label":
            return Tensor(name, "BYTES", np.array([self._label_bytes[row.top] for row in scored], dtype=object))
        if name == "score":
            return Tensor(name, "FP32", np.array([row.score for row in scored], dtype=np.float32))
        if name == "tokens":
            return Tensor(name, "INT32", np.array([len(row) for row in rows], dtype=np.int32))
        if name == "truncated":
            return Tensor(name, "BOOL", np.array([row.truncated for row in rows], dtype=np.bool_))
        matrix = np.empty((len(scored), len(self._labels)), dtype=np.float32)
        for index, row in enumerate(scored):
            matrix[index] = row.scores if name == "scores" else row.logits
        return Tensor(name, "FP32", matrix)


def answer_parameters(rows: Sequence[Row], *, digest: str, engine: str) -> dict[str, Parameter]:
    """What every answer says of itself: the bundle, the engine, and how many rows were cut if any was."""
    parameters: dict[str, Parameter] = {"bundle_digest": digest, "engine": engine}
    truncated = sum(row.truncated for row in rows)
    if truncated:
        parameters["truncated_rows"] = truncated
    return parameters
