"""Logits -> answers, by task. Pure functions over arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..bundle.errors import EngineFailed
from ..bundle.specs import Activation, ModelSpec, Task
from .engine import Outputs

Floats = npt.NDArray[np.float32]


class Scored(NamedTuple):
    """One row's outputs, before any label is put into words.

    Attributes:
        logits: [classes].
        scores: [classes], activated.
        top: class of the highest logit, the first of equals; 0 for regression.
        score: the top class's; regression's activated value.
    """

    logits: Floats
    scores: Floats
    top: int
    score: float


def shaped_logits(outputs: Outputs, rows: int, classes: int) -> Floats:
    """The engine's logits, [rows, classes], finite or not.

    Raises:
        EngineFailed: no logits, or another shape.
    """
    logits = outputs.get("logits")
    if logits is None:
        raise EngineFailed("engine's outputs", found=", ".join(outputs) or "none", wanted="logits")
    if logits.shape != (rows, classes):
        raise EngineFailed("shape of logits", found=list(logits.shape), wanted=[rows, classes])
    return logits


def finite_rows(logits: Floats) -> npt.NDArray[np.bool_]:
    """Which rows hold neither NaN nor infinity, [rows]."""
    return np.asarray(np.isfinite(logits).all(axis=1))


def checked_logits(outputs: Outputs, rows: int, classes: int) -> Floats:
    """The engine's logits, [rows, classes], all finite.

    Raises:
        EngineFailed: no logits, another shape, or a NaN or infinity; never passed on as an answer.
    """
    logits = shaped_logits(outputs, rows, classes)
    bad = rows - int(finite_rows(logits).sum())
    if bad:
        raise EngineFailed(f"NaN or infinity in {bad} of {rows} rows")
    return logits


def activate(logits: Floats, activation: Activation) -> Floats:
    """Scores from logits, [rows, classes] to [rows, classes]; stable for any finite logits."""
    if activation is Activation.SOFTMAX:
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)
    if activation is Activation.SIGMOID:
        # exp of -|x| can't overflow.
        small = np.exp(-np.abs(logits))
        return np.asarray(np.where(logits >= 0, 1.0, small) / (1.0 + small), dtype=np.float32)
    return logits


def top_classes(logits: Floats) -> npt.NDArray[np.int64]:
    """Index of the highest logit of each row, the first of equals; the label that the reference would give."""
    return np.asarray(logits.argmax(axis=1), dtype=np.int64)


def score_rows(logits: Floats, model: ModelSpec) -> list[Scored]:
    """What :func:`decode` says of each row, for callers that hand rows on one by one.

    Args:
        logits: [rows, classes], finite.
        model: its task and activation.
    """
    scores = activate(logits, model.activation)
    regression = model.task is Task.REGRESSION
    tops = np.zeros(len(logits), dtype=np.int64) if regression else top_classes(logits)
    best = scores[np.arange(len(tops)), tops]
    return list(map(Scored, logits, scores, tops.tolist(), best.tolist()))


def decode(logits: Floats, model: ModelSpec) -> dict[str, npt.NDArray[np.generic]]:
    """All outputs of the task, by name, rows first.

    ``label`` is an object array of str; regression has no ``label`` and no ``scores``, its ``score`` is the activated
    first logit.
    """
    scores = activate(logits, model.activation)
    if model.task is Task.REGRESSION:
        return {"score": scores[:, 0], "logits": logits}
    tops = top_classes(logits)
    labels = np.array(model.labels, dtype=object)[tops]
    return {"label": labels, "score": scores[np.arange(len(tops)), tops], "scores": scores, "logits": logits}
