"""Candidate against baseline: the ratio of their quantiles with its interval. Pure.

From randomised ABBA blocks of one run (:func:`contrast`), or, weaker, from two runs (:func:`contrast_runs`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..bundle.compare import quantile
from ..bundle.errors import InvalidInput
from .certify import CONFIDENCE
from .student import student_quantile

NOT_COMPARABLE = "not comparable"
"""The finding where there is none; a reason stands beside it."""

LEAST_PAIRS = 4

SEGMENTS = 10
"""Parts that each of two runs is cut into, where there are no blocks to compare."""


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
        baseline_low, baseline_high: the 99 % interval of the baseline's own seconds.
    """

    metric: str
    ratio: float | None
    low: float | None
    high: float | None
    finding: str
    pairs: tuple[tuple[float, float], ...]
    reason: str | None = None
    baseline_low: float | None = None
    baseline_high: float | None = None

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
    if len(pairs) < LEAST_PAIRS or len(pairs) % 2:
        raise InvalidInput("pairs of blocks", found=len(pairs), wanted="an even number of at least 4")
    seconds = np.asarray(pairs, dtype=np.float64)
    if not (seconds > 0).all():
        raise InvalidInput("pairs of blocks", found="a time of zero or NaN", wanted="seconds above 0")
    kept = tuple((float(candidate), float(baseline)) for candidate, baseline in seconds)
    unanswered = int((~np.isfinite(seconds)).any(axis=1).sum())
    if unanswered:
        reason = f"{unanswered} of {len(pairs)} pairs have no {metric}: too many requests without a good answer"
        return not_comparable(metric, reason, kept)
    logs = np.log(seconds)
    groups = (logs[:, 1] - logs[:, 0]).reshape(-1, 2).mean(axis=1)
    centre, reach = _interval(groups)
    own, own_reach = _interval(logs[:, 1].reshape(-1, 2).mean(axis=1))
    low, high = math.exp(centre - reach), math.exp(centre + reach)
    finding = "faster" if low > 1.0 else "slower" if high < 1.0 else "no difference shown"
    own_interval = math.exp(own - own_reach), math.exp(own + own_reach)
    return Contrast(metric, math.exp(centre), low, high, finding, kept, None, *own_interval)


def contrast_runs(
    metric: str, share: float, candidate: npt.NDArray[np.float64], baseline: npt.NDArray[np.float64]
) -> Contrast:
    """Compare two runs of different times, by the quantiles of 10 parts of each.

    The interval is Welch's, by Student's t over the logarithms. It holds for the two runs; what differs between their
    moments (the machine's heat, its neighbours) is in the ratio and not in the interval.

    Args:
        metric: the name for the report.
        share: e.g. 0.95.
        candidate, baseline: latencies by schedule in seconds, infinite where there was no good answer.
    """
    sides = []
    for latency in (candidate, baseline):
        if len(latency) < SEGMENTS:
            return not_comparable(metric, f"a run of {len(latency)} requests, at least {SEGMENTS} are needed")
        sides.append([quantile(part, share) for part in np.array_split(latency, SEGMENTS)])
    pairs = tuple(zip(*sides, strict=True))
    seconds = np.array(sides)
    if not (np.isfinite(seconds) & (seconds > 0)).all():
        return not_comparable(
            metric, f"parts of a run have no {metric}: too many requests without a good answer", pairs
        )
    logs = np.log(seconds)
    means, errors = logs.mean(axis=1), logs.var(axis=1, ddof=1) / SEGMENTS
    centre, error = float(means[1] - means[0]), float(errors.sum())
    # Welch & Satterthwaite; rounded down, which widens.
    freedom = (
        max(SEGMENTS - 1, int(error**2 * (SEGMENTS - 1) / float((errors**2).sum()))) if error > 0 else SEGMENTS - 1
    )
    reach = student_quantile((1.0 + CONFIDENCE) / 2.0, freedom) * math.sqrt(error)
    own, own_reach = _interval(logs[1])
    low, high = math.exp(centre - reach), math.exp(centre + reach)
    finding = "faster" if low > 1.0 else "slower" if high < 1.0 else "no difference shown"
    own_interval = math.exp(own - own_reach), math.exp(own + own_reach)
    return Contrast(metric, math.exp(centre), low, high, finding, pairs, None, *own_interval)


def _interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The mean, and how far its 99 % interval reaches to each side, by Student's t."""
    quantile_t = student_quantile((1.0 + CONFIDENCE) / 2.0, len(values) - 1)
    return float(values.mean()), quantile_t * float(values.std(ddof=1)) / math.sqrt(len(values))


def not_comparable(metric: str, reason: str, pairs: tuple[tuple[float, float], ...] = ()) -> Contrast:
    """A comparison that can't be had, with its reason."""
    return Contrast(metric, None, None, None, NOT_COMPARABLE, pairs, reason)
