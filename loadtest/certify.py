"""How sure a finite run makes us that a target holds, or that it does not. Pure functions of counts and samples.

A share target ("95 % within 45 ms") is judged by counting, not by an estimated quantile: with ``t`` of ``n`` requests
over the limit, how likely is so small (or so large) a ``t`` if exactly 5 % were over? That is the early-stopping rule
of MLPerf LoadGen. It takes requests to be independent; queueing makes slow requests come in clusters, so ``n`` and
``t`` are first divided by a measured variance inflation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from ..bundle.errors import InvalidInput
from .student import student_quantile

CONFIDENCE = 0.99
"""Of every certificate and interval in a verdict."""

BATCHES = 20
"""Batches a run is cut into to measure how far slow requests cluster."""

GROSS = 3.0
"""From this multiple of the allowed share on, a miss needs no allowance for clusters: see :func:`certify_share`."""


class Verdict(StrEnum):
    """What a run says about its targets."""

    CONFIRMED = "CONFIRMED"
    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID = "INVALID"


@dataclass(frozen=True)
class Certificate:
    """What a run says about one target.

    Attributes:
        verdict: CONFIRMED, REFUTED or INCONCLUSIVE.
        samples: requests judged.
        over: how many of them were over the limit; errors, timeouts and the like included.
        allowed: the share that may be over (0.05 for p95); for a mean, None.
        inflation: how many times more the over-limit share (or the mean) varies than independent requests would make
            it.
        chance: for a share, how likely so few over (CONFIRMED) or so many (REFUTED) would be at exactly the allowed
            share.
        low, high: for a mean, its interval in seconds, infinite where it has none.
        more: further requests, about, after which a run that goes on like this would be decided; None where that is
            decided, out of reach, or can't be said.
    """

    verdict: Verdict
    samples: int
    over: int
    allowed: float | None
    inflation: float
    chance: float | None = None
    low: float | None = None
    high: float | None = None
    more: int | None = None


def binomial_cdf(t: int, n: int, q: float) -> float:
    """P(X <= t) for X ~ Binomial(n, q), 0 < q < 1; summed in logarithms, exact to rounding."""
    if t < 0:
        return 0.0
    if t >= n:
        return 1.0
    k = np.arange(1, t + 1, dtype=np.float64)
    log_ratio = np.log((n - k + 1) / k) + math.log(q / (1.0 - q))
    log_pmf = n * math.log1p(-q) + np.concatenate([[0.0], np.cumsum(log_ratio)])
    top = float(log_pmf.max())
    return min(1.0, math.exp(top) * float(np.exp(log_pmf - top).sum()))


def samples_needed(over: int, allowed: float, confidence: float = CONFIDENCE) -> int:
    """The smallest run that confirms a share target with ``over`` requests over the limit.

    ``min{n : P(Binomial(n, allowed) <= over) <= 1 - confidence}``, from MLPerf LoadGen's early stopping.
    """
    low, high = over, max(1, over)
    while binomial_cdf(over, high, allowed) > 1.0 - confidence:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if binomial_cdf(over, middle, allowed) <= 1.0 - confidence:
            high = middle
        else:
            low = middle
    return high


def variance_inflation(marks: npt.NDArray[np.bool_], share: float | None = None) -> float:
    """How far marked requests cluster: ``max(1, l Var(f_b) / (p (1 - p)))``, by the method of batch means.

    Args:
        marks: [n] marks by schedule. ``l`` is the length of each of 20 batches of consecutive requests and ``f_b`` the
            marked share in each.
        share: the share ``p`` that independent marks are taken to have; by default that of the marks themselves.

    Returns:
        About 1 for independent requests, about the size of a cluster for clustered ones; 1.0 where there are fewer
        requests than batches, or nothing to tell apart.
    """
    length = len(marks) // BATCHES
    if length == 0:
        return 1.0
    batches = marks[: length * BATCHES].reshape(BATCHES, length)
    independent = float(batches.var(ddof=1)) if share is None else share * (1.0 - share)
    if independent == 0.0:
        return 1.0
    # Rounded: 1.0000000000000002 instead of 1 would take a request away when n is divided by it.
    return max(1.0, round(length * float(batches.mean(axis=1).var(ddof=1)) / independent, 9))


def certify_share(latency: npt.NDArray[np.float64], limit_s: float, share: float) -> Certificate:
    """Judge "at least ``share`` of requests within the limit".

    With the variance inflation V: CONFIRMED if ``P(Binomial(floor(n/V), q) <= ceil(t/V)) <= 0.01`` for the allowed
    share q = 1 - share; REFUTED by the mirror, ``P(Binomial(ceil(n/V), q) >= floor(t/V)) <= 0.01``; else INCONCLUSIVE.
    Both round against the verdict they would give.

    V is the larger of two: that of the requests over the limit, and that of the requests over half the limit. The first
    alone says 1 when nothing was over, however strongly slow requests cluster, and a short run then confirms what it
    had the luck not to see (a queue exactly at its limit: one run in five). A service that stays below half its limit
    is not asked for more.

    One long stall is a single cluster, and no run with one could ever be refuted after dividing by V; so a share above
    three times the allowed one refutes by the plain count of n and t.

    Args:
        latency: [n] seconds by schedule, infinite where there was no good answer; n >= 1.
        limit_s: the limit.
        share: e.g. 0.95.

    Raises:
        InvalidInput: no samples.
    """
    over = latency > limit_s
    n, t, allowed = len(over), int(over.sum()), round(1.0 - share, 12)
    if n == 0:
        raise InvalidInput("certificate of no samples", wanted="at least one sample")
    inflation = max(variance_inflation(over, allowed), variance_inflation(latency > limit_s / 2.0))
    too_few = _chance_of_so_few(n, t, allowed, inflation)
    too_many = _chance_of_so_many(n, t, allowed, inflation)
    if t > GROSS * allowed * n:
        too_many = min(too_many, _chance_of_so_many(n, t, allowed, 1.0))
    if too_few <= 1.0 - CONFIDENCE:
        return Certificate(Verdict.CONFIRMED, n, t, allowed, inflation, chance=too_few)
    if too_many <= 1.0 - CONFIDENCE:
        return Certificate(Verdict.REFUTED, n, t, allowed, inflation, chance=too_many)
    chance = too_few if t <= allowed * n else too_many
    more = _more_requests(n, t, allowed, inflation)
    return Certificate(Verdict.INCONCLUSIVE, n, t, allowed, inflation, chance=chance, more=more)


def certify_mean(latency: npt.NDArray[np.float64], limit_s: float) -> Certificate:
    """Judge "the mean is within the limit" by the interval of batch means.

    The run is cut into 20 batches of consecutive requests; their means are nearly independent and normal, so that
    ``mean ± t(0.99, 19) s / sqrt(20)`` bounds the mean on each side with 99 %.

    Args:
        latency: [n] seconds by schedule, finite (a failed request is charged before it gets here); n >= 1.
        limit_s: the limit.

    Raises:
        InvalidInput: no samples.
    """
    n = len(latency)
    if n == 0:
        raise InvalidInput("certificate of no samples", wanted="at least one sample")
    over = int((latency > limit_s).sum())
    length = n // BATCHES
    if length == 0:
        return Certificate(Verdict.INCONCLUSIVE, n, over, None, 1.0, low=0.0, high=math.inf, more=BATCHES - n)
    means = latency[: length * BATCHES].reshape(BATCHES, length).mean(axis=1)
    centre, spread = float(latency.mean()), float(means.std(ddof=1))
    reach = student_quantile(CONFIDENCE, BATCHES - 1) * spread / math.sqrt(BATCHES)
    variance = float(latency.var())
    inflation = max(1.0, length * spread * spread / variance) if variance > 0 else 1.0
    verdict, more = Verdict.INCONCLUSIVE, None
    if centre + reach <= limit_s:
        verdict = Verdict.CONFIRMED
    elif centre - reach > limit_s:
        verdict = Verdict.REFUTED
    elif centre != limit_s:
        # The interval shrinks with the root of the run's length.
        more = math.ceil(n * ((reach / (centre - limit_s)) ** 2 - 1.0)) or None
    return Certificate(verdict, n, over, None, inflation, low=max(0.0, centre - reach), high=centre + reach, more=more)


def _chance_of_so_few(n: int, t: int, allowed: float, inflation: float) -> float:
    return binomial_cdf(math.ceil(t / inflation), math.floor(n / inflation), allowed)


def _chance_of_so_many(n: int, t: int, allowed: float, inflation: float) -> float:
    return 1.0 - binomial_cdf(math.floor(t / inflation) - 1, math.ceil(n / inflation), allowed)


def _more_requests(n: int, t: int, allowed: float, inflation: float) -> int | None:
    """How many further requests decide, if their over-limit share and clustering stay as they are."""
    observed = t / n
    if abs(observed - allowed) < 0.02 * allowed:
        return None  # as good as at the limit: no affordable run decides
    chance = _chance_of_so_few if observed < allowed else _chance_of_so_many

    def decided(factor: int) -> bool:
        return chance(n * factor // 16, round(t * factor / 16), allowed, inflation) <= 1.0 - CONFIDENCE

    low, high = 16, 32
    while not decided(high):
        low, high = high, 2 * high
        if high > 16 * 1024:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return n * high // 16 - n
