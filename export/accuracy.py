"""The task's own measure on labelled data, of an engine beside the reference on the same rows.

- Classification: accuracy, the share of rows with the right label.
- Multi-label: exact match (subset accuracy), the share of rows with exactly the right set of labels, a label being
  given when its logit is positive. Stricter than F1, yet a share of rows, so that its drop has an exact bound.
- Regression: R2, the share of the labels' variance that the answers explain, 1 - MSE / variance, the activation
  applied. Free of the scale, so that one ``--max-accuracy-drop`` reads alike for all tasks.

The drop is paired. Of n rows let b be right with the reference alone and c right with the engine alone; rows on which
both are right or both are wrong say nothing. The drop is (b - c) / n. Its upper bound multiplies two exact bounds, of
97.5 % each, hence 95 % together (Bonferroni): d for the share of rows that differ, q for the share of those that the
engine loses; drop <= d (2 q - 1), both from Clopper & Pearson.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bundle.errors import InvalidInput
from ..bundle.evidence import Accuracy
from ..bundle.specs import ModelSpec, Task
from ..runtime.tasks import Floats, activate, top_classes
from .bounds import share_lower, share_upper

Doubles = npt.NDArray[np.float64]
_NORMAL_95 = 1.6448536269514722


def measure_accuracy(logits: Floats, labels: npt.NDArray[Any], model: ModelSpec, reference_logits: Floats) -> Accuracy:
    """Measure an engine; with its own logits as the reference's, measure the reference.

    Args:
        logits: the engine's, float32 [rows, classes], finite.
        labels: what is right. Classification: integers [rows], indices of classes. Multi-label: booleans
            [rows, classes]. Regression: floats [rows].
        model: task and activation.
        reference_logits: the reference's on the same rows.

    Raises:
        InvalidInput: not as many labels as rows, or no rows.
    """
    labels = np.asarray(labels)
    if len(labels) != len(logits) or len(logits) == 0:
        raise InvalidInput("labels", found=len(labels), wanted=f"{len(logits)}, one a row, at least one")
    if model.task is Task.REGRESSION:
        return _explained(logits, labels.astype(np.float64), model, reference_logits)
    multi = model.task is Task.MULTI_LABEL
    given, wanted = _decisions(logits, multi), labels.astype(bool) if multi else _one_hot(labels, logits.shape[1])
    right = (given == wanted).all(axis=1)
    reference_right = (_decisions(reference_logits, multi) == wanted).all(axis=1)
    rows, lost, won = len(labels), int((reference_right & ~right).sum()), int((right & ~reference_right).sum())
    return Accuracy(
        rows=rows,
        accuracy=float(right.mean()),
        macro_f1=_macro_f1(given, wanted),
        drop=(lost - won) / rows,
        drop_high=drop_upper(lost, won, rows),
        measure="exact match" if multi else "accuracy",
    )


def drop_upper(lost: int, won: int, rows: int) -> float:
    """Upper 95 % bound on the drop of a share, from discordant rows; the formula stands in this module's docstring."""
    if lost + won == 0:
        return share_upper(0, rows, 0.975)
    lean = 2.0 * share_upper(lost, lost + won, 0.975) - 1.0
    differ = share_upper if lean > 0 else share_lower
    return lean * differ(lost + won, rows, 0.975)


def _decisions(logits: Floats, multi: bool) -> npt.NDArray[np.bool_]:
    return logits > 0 if multi else _one_hot(top_classes(logits), logits.shape[1])


def _one_hot(indices: npt.NDArray[Any], classes: int) -> npt.NDArray[np.bool_]:
    return np.asarray(indices[:, None] == np.arange(classes))


def _macro_f1(given: npt.NDArray[np.bool_], wanted: npt.NDArray[np.bool_]) -> float:
    """Mean of F1 = 2 TP / (2 TP + FP + FN) over the classes that occur in data or answers; 1.0 where none does."""
    hits = (given & wanted).sum(axis=0)
    occurrences = given.sum(axis=0) + wanted.sum(axis=0)
    seen = occurrences > 0
    return float((2.0 * hits[seen] / occurrences[seen]).mean()) if seen.any() else 1.0


def _explained(logits: Floats, labels: Doubles, model: ModelSpec, reference_logits: Floats) -> Accuracy:
    """R2, and the paired difference of squared errors with its normal upper bound."""
    errors = (activate(logits, model.activation)[:, 0] - labels) ** 2
    reference_errors = (activate(reference_logits, model.activation)[:, 0] - labels) ** 2
    variance = float(labels.var())
    rows = len(labels)
    if variance == 0.0:
        # Nothing to explain: right or wrong, as scikit-learn's r2_score has it.
        right, reference_right = float(not errors.any()), float(not reference_errors.any())
        return Accuracy(rows, right, None, reference_right - right, 1.0 if errors.any() else 0.0, "R2")
    lost = (errors - reference_errors) / variance
    half_width = _NORMAL_95 * float(lost.std(ddof=1)) / math.sqrt(rows) if rows > 1 else math.inf
    drop = float(lost.mean())
    return Accuracy(rows, 1.0 - float(errors.mean()) / variance, None, drop, drop + half_width, "R2")
