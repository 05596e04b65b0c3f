"""How far an engine may be from the checkpoint, by precision.

Errors are counted in units of the *spread*: the standard deviation of the reference's own logits over the real texts.
An error of 0.5 means nothing to a model whose logits range over 15 and everything to one whose logits range over 0.1.

Four limits hold at once. ``tolerance`` is for the worst logit of any row; ``mean`` for the mean error over the real
texts, which doesn't grow with the number of texts; ``flip_margin`` for how far ahead the reference may have put its own
label on a row where the engine's label differs; ``flip_rate`` for the share of such rows. An engine whose worst error
is within the tolerance can't flip a lead over twice the tolerance, so a margin of that size would forbid nothing: the
flip margin is half the tolerance, and binds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..runtime.tasks import Floats


@dataclass(frozen=True)
class Limits:
    """What an engine must keep.

    Attributes:
        tolerance: largest absolute logit error of any row.
        mean: largest mean absolute logit error over the real rows.
        flip_margin: most by which the reference may have preferred its own label on a flipped row, in logits.
        flip_rate: share of flipped rows that must not be exceeded beyond doubt (95 % lower bound).
        source: where the tolerance comes from, in words.
    """

    tolerance: float
    mean: float
    flip_margin: float
    flip_rate: float
    source: str


@dataclass(frozen=True)
class _Allowance:
    spread: float
    flip_rate: float


# Measured on two fine-tuned encoders (77 and 2 classes, 5,080 texts), worst logit over the spread: fp32 0.00001, bf16
# 0.03, int8 per channel 0.47, int8 per tensor 0.78; flips at most 1.3 %, the widest at 0.45. fp16 keeps three bits more
# than bf16.
_BY_PRECISION = {
    "fp32": _Allowance(1e-4, 0.001),
    "fp16": _Allowance(0.03, 0.005),
    "bf16": _Allowance(0.1, 0.01),
    "int8": _Allowance(1.0, 0.02),
}
_NOISE_FACTOR = 100.0
_NOISE_CAP = 0.01


def logit_spread(logits: Floats) -> float:
    """Standard deviation of the reference's logits, [rows, classes] taken together.

    A head that answers nearly the same to everything has none; rounding then follows the size of the answer, so a
    twentieth of the root mean square is the least, and 1e-3 where all are zero.
    """
    deviation = float(logits.std(dtype="float64"))
    size = math.sqrt(float((logits.astype("float64") ** 2).mean()))
    return max(deviation, 0.05 * size, 1e-3)


def limits(precision: str, *, spread: float, noise_floor: float, tolerance: float | None = None) -> Limits:
    """The limits for a precision; a precision without a row of its own is held to fp32's.

    Args:
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        spread: of the reference's logits, see :func:`logit_spread`.
        noise_floor: largest difference of the reference to itself, see ``ReferenceAnswers``.
        tolerance: an own limit for the worst logit; the flip margin follows it, the mean is then not limited apart.
    """
    allowance = _BY_PRECISION.get(precision, _BY_PRECISION["fp32"])
    if tolerance is not None:
        return Limits(tolerance, tolerance, tolerance / 2, allowance.flip_rate, "set by the caller")
    derived = allowance.spread * spread
    source = f"{precision}: {allowance.spread:g} x the logits' spread {spread:.3g}"
    # A reference that itself depends on padding must not widen the limit without end.
    noise = min(_NOISE_FACTOR * noise_floor, _NOISE_CAP * spread)
    if noise > derived:
        derived = noise
        source = f"{precision}: {_NOISE_FACTOR:g} x the reference's noise floor {noise_floor:.2g}"
        if noise < _NOISE_FACTOR * noise_floor:
            source = f"{precision}: {_NOISE_CAP:g} x the logits' spread {spread:.3g} (noise floor {noise_floor:.2g})"
    return Limits(derived, derived / 10, derived / 2, allowance.flip_rate, source)
