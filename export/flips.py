"""Where an engine decides otherwise than the reference, and how sure the reference was there."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..bundle.evidence import Flip
from ..bundle.specs import ModelSpec, Task
from ..runtime.tasks import Floats, top_classes

MOST_LISTED = 50


def find_flips(got: Floats, want: Floats, model: ModelSpec) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Which rows are decided otherwise, and by how much the reference preferred its own decision.

    Single label: the reference's logit of its own label minus that of the engine's label; never less than the row's
    margin between first and second. Multi-label, where a label is given when its logit is positive: twice the largest
    distance from zero among the labels that changed, since one logit moved and not two. Regression decides nothing.
    A row with a NaN or an infinity counts as decided otherwise by an infinite margin.

    Args:
        got: the engine's logits [rows, classes].
        want: the reference's, finite.

    Returns:
        Flipped [rows] and margins [rows], 0.0 where nothing flipped.
    """
    rows = np.arange(len(want))
    broken = ~np.isfinite(got).all(axis=1)
    if model.task is Task.REGRESSION:
        margins = np.zeros(len(want))
        flipped = np.zeros(len(want), dtype=bool)
    elif model.task is Task.MULTI_LABEL:
        changed = (got > 0) != (want > 0)
        flipped = changed.any(axis=1)
        margins = 2.0 * np.where(changed, np.abs(want), 0.0).max(axis=1).astype(np.float64)
    else:
        mine, theirs = top_classes(want), top_classes(got)
        flipped = mine != theirs
        margins = want[rows, mine].astype(np.float64) - want[rows, theirs]
    return flipped | broken, np.where(broken, np.inf, np.where(flipped, margins, 0.0))


def list_flips(got: Floats, want: Floats, model: ModelSpec) -> tuple[Flip, ...]:
    """The flipped rows, those first where the reference was surest."""
    flipped, margins = find_flips(got, want, model)
    order = sorted(np.flatnonzero(flipped).tolist(), key=lambda row: -margins[row])
    return tuple(
        Flip(
            row=row,
            reference=_decision(want[row], model),
            engine=_decision(got[row], model),
            margin=float(margins[row]),
            error=float(np.abs(got[row] - want[row]).max()) if np.isfinite(got[row]).all() else math.inf,
        )
        for row in order[:MOST_LISTED]
    )


def _decision(logits: Floats, model: ModelSpec) -> str:
    if not np.isfinite(logits).all():
        return "not finite"
    if model.task is Task.MULTI_LABEL:
        return ", ".join(label for label, logit in zip(model.labels, logits, strict=True) if logit > 0) or "none"
    return model.labels[int(logits.argmax())]
