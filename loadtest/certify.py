"""How sure a finite run makes us that a target holds, or that it does not. Pure functions of counts and samples.

A share target ("95 % within 45 ms") is judged by counting, not by an estimated quantile: with ``t`` of ``n`` requests
over the limit, how likely is so small (or so large) a ``t`` if exactly 5 % were over? That is the early-stopping rule
of MLPerf LoadGen. It takes requests to be independent; queueing makes slow requests come in clusters, so ``n`` and
``t`` are first divided by a measured variance inflation (:mod:`.clusters`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from ..bundle.errors import InvalidInput
from .binomial import binomial_cdf
from .clusters import BATCHES, Batches, cut, excess_inflation, inflation, lag_factor
from .student import student_quantile

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.99
"""Of every certificate and interval in a verdict."""

GROSS = 3.0
"""From this multiple of the allowed share on, a miss needs no allowance for clusters: see :func:`decide`."""

LEAST_CLUSTERS = 60
"""A run that holds fewer independent stretches than this can't show how slow requests cluster, and confirms nothing."""


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


@dataclass(frozen=True)
class Decision:
    """What counting says of one or many runs; arrays over runs.

    Attributes:
        confirmed, refuted: bool; never both.
        inflation: requests that count as one.
        so_few, so_many: how likely so few, or so many, over would be at exactly the allowed share.
    """

    confirmed: npt.NDArray[np.bool_]
    refuted: npt.NDArray[np.bool_]
    inflation: Floats
    so_few: Floats
    so_many: Floats


def decide(run: Batches, allowed: float, confidence: float = CONFIDENCE) -> Decision:
    """Judge "at most ``allowed`` of requests over the limit", for one or many runs.

    With the inflation V: CONFIRMED if ``P(Binomial(floor(n/V), q) <= ceil(t/V)) <= 1 - confidence`` for the allowed
    share q; REFUTED by the mirror, ``P(Binomial(ceil(n/V), q) >= floor(t/V)) <= 1 - confidence``. Both round against
    the verdict they would give. A run with fewer than 60 independent stretches, n over the inflation of its excess,
    confirms nothing: it is shorter than what it would have to show.

    One long stall is a single cluster, and no run with one could ever be refuted after dividing by V; so a miss that is
    gross in both directions, with more than three times the allowed share over the limit and more than the allowed
    share over three times the limit, refutes by the plain count of n and t.
    """
    n, t, stretch = run.n, run.over, excess_inflation(run)
    v = inflation(run, allowed, stretch)
    so_few = binomial_cdf(np.ceil(t / v), np.floor(n / v), allowed)
    so_many = 1.0 - binomial_cdf(np.floor(t / v) - 1.0, np.ceil(n / v), allowed)
    gross = (t > GROSS * allowed * n) & (run.far > allowed * n)
    if gross.any():
        plain = 1.0 - binomial_cdf(t - 1.0, n, allowed)
        so_many = np.where(gross, np.minimum(so_many, plain), so_many)
    chance = 1.0 - confidence
    long_enough = (stretch <= 1.0) | (n / stretch >= LEAST_CLUSTERS)
    return Decision((so_few <= chance) & long_enough, so_many <= chance, v, so_few, so_many)


def certify_share(latency: Floats, limit_s: float, share: float, confidence: float = CONFIDENCE) -> Certificate:
    """Judge "at least ``share`` of requests within the limit" by :func:`decide`.

    Args:
        latency: [n] seconds by schedule, infinite where there was no good answer; n >= 1.
        limit_s: the limit.
        share: e.g. 0.95.
        confidence: of the certificate.

    Raises:
        InvalidInput: no samples.
    """
    _some(latency)
    return _certificate(cut(latency, limit_s), round(1.0 - share, 12), confidence)


def certify_failures(failed: npt.NDArray[np.bool_], allowed: float, confidence: float = CONFIDENCE) -> Certificate:
    """Judge "at most ``allowed`` of requests without a good answer" by :func:`decide`.

    Args:
        failed: [n] by schedule; n >= 1.
        allowed: e.g. 0.001.
        confidence: of the certificate.

    Raises:
        InvalidInput: no samples.
    """
    _some(failed)
    return _certificate(cut(np.where(failed, np.inf, 0.0), 1.0), allowed, confidence)


def _certificate(run: Batches, allowed: float, confidence: float) -> Certificate:
    found = decide(run, allowed, confidence)
    over, v = int(run.over), float(found.inflation)
    if found.confirmed:
        return Certificate(Verdict.CONFIRMED, run.n, over, allowed, v, chance=float(found.so_few))
    if found.refuted:
        return Certificate(Verdict.REFUTED, run.n, over, allowed, v, chance=float(found.so_many))
    chance = found.so_few if over <= allowed * run.n else found.so_many
    more = _more_requests(run.n, over, allowed, v, confidence)
    short = LEAST_CLUSTERS * float(excess_inflation(run)) - run.n
    if more is not None and over < allowed * run.n and short > 0:
        more = max(more, math.ceil(short))
    return Certificate(Verdict.INCONCLUSIVE, run.n, over, allowed, v, chance=float(chance), more=more)


def certify_mean(latency: Floats, limit_s: float, confidence: float = CONFIDENCE) -> Certificate:
    """Judge "the mean is within the limit" by the interval of batch means.

    The run is cut into 20 batches of consecutive requests; their means are nearly normal, so that ``mean ± t(0.99, 19)
    s / sqrt(20)`` bounds the mean on each side with 99 %, where s is their standard deviation, widened by the root of
    the lag factor where consecutive batches go together.

    Args:
        latency: [n] seconds by schedule, finite (a failed request is charged before it gets here); n >= 1.
        limit_s: the limit.
        confidence: of the interval, on each side.

    Raises:
        InvalidInput: no samples.
    """
    _some(latency)
    n = len(latency)
    over = int((latency > limit_s).sum())
    length = n // BATCHES
    if length == 0:
        return Certificate(Verdict.INCONCLUSIVE, n, over, None, 1.0, low=0.0, high=math.inf, more=BATCHES - n)
    means = latency[: length * BATCHES].reshape(BATCHES, length).mean(axis=1)
    centre, spread = float(latency.mean()), float(means.std(ddof=1)) * math.sqrt(float(lag_factor(means)))
    reach = student_quantile(confidence, BATCHES - 1) * spread / math.sqrt(BATCHES)
    variance = float(latency.var())
    v = max(1.0, length * spread * spread / variance) if variance > 0 else 1.0
    verdict, more = Verdict.INCONCLUSIVE, None
    if centre + reach <= limit_s and (v <= 1.0 or n / v >= LEAST_CLUSTERS or float(latency.max()) <= limit_s):
        verdict = Verdict.CONFIRMED
    elif centre - reach > limit_s:
        verdict = Verdict.REFUTED
    elif centre != limit_s:
        # The interval shrinks with the root of the run's length.
        longer = math.ceil(n * ((reach / (centre - limit_s)) ** 2 - 1.0))
        more = max(longer, math.ceil(LEAST_CLUSTERS * v - n)) or None
    return Certificate(verdict, n, over, None, v, low=max(0.0, centre - reach), high=centre + reach, more=more)


def _some(samples: npt.NDArray[np.float64] | npt.NDArray[np.bool_]) -> None:
    if not len(samples):
        raise InvalidInput("certificate of no samples", wanted="at least one sample")


def _more_requests(n: int, t: int, allowed: float, v: float, confidence: float) -> int | None:
    """How many further requests decide, if their over-limit share and clustering stay as they are."""
    observed = t / n
    if abs(observed - allowed) < 0.02 * allowed:
        return None  # as good as at the limit: no affordable run decides

    def decided(factor: int) -> bool:
        size, count = n * factor // 16, round(t * factor / 16)
        if observed < allowed:
            return bool(binomial_cdf(math.ceil(count / v), math.floor(size / v), allowed) <= 1.0 - confidence)
        return bool(1.0 - binomial_cdf(math.floor(count / v) - 1, math.ceil(size / v), allowed) <= 1.0 - confidence)

    low, high = 16, 32
    while not decided(high):
        low, high = high, 2 * high
        if high > 16 * 1024:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return n * high // 16 - n
