"""Candidate against baseline: the ratio of their quantiles with its interval, from randomised ABBA blocks. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..bundle.errors import InvalidInput
from .certify import CONFIDENCE
from .student import student_quantile


@dataclass(frozen=True)
class Contrast:
    """How many times faster the candidate is.

    Attributes:
        metric: what is compared, e.g. ``p95``.
        ratio: baseline / candidate (above 1: the candidate is faster); None where it can't be had.
        low, high: its 99 % interval.
        finding: ``faster``, ``slower``, or ``no difference shown`` where the interval holds 1; ``not comparable``.
        reason: why it is not comparable.
        pairs: per pair, (candidate seconds, baseline seconds); infinite where too many requests had no good answer.
    """

    metric: str
    ratio: float | None
    low: float | None
    high: float | None
    finding: str
    pairs: tuple[tuple[float, float], ...]
    reason: str | None = None

    @property
    def candidate_s(self) -> float | None:
        """The candidate's seconds, as the geometric mean over the blocks; with ``baseline_s`` it gives the ratio."""
        return self._mean(0)

    @property
    def baseline_s(self) -> float | None:
        """The baseline's seconds, as the geometric mean over the blocks."""
        return self._mean(1)

    def _mean(self, side: int) -> float | None:
        if self.ratio is None:
            return None
        return math.exp(sum(math.log(pair[side]) for pair in self.pairs) / len(self.pairs))


def contrast(metric: str, pairs: Sequence[tuple[float, float]]) -> Contrast:
    """Compare the two sides, pair by pair.

    A pair's difference is ``d = ln baseline - ln candidate``, two pairs make an ABBA group, and the mean of a group's
    two differences is free of a steady drift (machines warm up, neighbours come and go). The ratio is ``exp`` of the
    groups' mean and its interval that of Student's t over the groups. A finding needs an interval that excludes 1.

    Args:
        metric: the name for the report.
        pairs: (candidate, baseline) quantiles in seconds by pair, in order; an even number of at least 4.

    Raises:
        InvalidInput: another number of pairs, or a time that is not above zero.
    """
    if len(pairs) < 4 or len(pairs) % 2:
        raise InvalidInput("pairs of blocks", found=len(pairs), wanted="an even number of at least 4")
    seconds = np.asarray(pairs, dtype=np.float64)
    if not (seconds > 0).all():
        raise InvalidInput("pairs of blocks", found="a time of zero or NaN", wanted="seconds above 0")
    kept = tuple((float(candidate), float(baseline)) for candidate, baseline in seconds)
    unanswered = int((~np.isfinite(seconds)).any(axis=1).sum())
    if unanswered:
        reason = f"{unanswered} of {len(pairs)} pairs have no {metric}: too many requests without a good answer"
        return not_comparable(metric, reason, kept)
    differences = np.log(seconds[:, 1]) - np.log(seconds[:, 0])
    groups = differences.reshape(-1, 2).mean(axis=1)
    centre = float(groups.mean())
    reach = student_quantile((1.0 + CONFIDENCE) / 2.0, len(groups) - 1) * float(groups.std(ddof=1)) / len(groups) ** 0.5
    low, high = math.exp(centre - reach), math.exp(centre + reach)
    finding = "faster" if low > 1.0 else "slower" if high < 1.0 else "no difference shown"
    return Contrast(metric, math.exp(centre), low, high, finding, kept)


def not_comparable(metric: str, reason: str, pairs: tuple[tuple[float, float], ...] = ()) -> Contrast:
    """A comparison that can't be had, with its reason."""
    return Contrast(metric, None, None, None, "not comparable", pairs, reason)
