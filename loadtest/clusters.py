"""How far slow requests cluster: a run reduced to 20 batches, and by how much independent counting overrates it.

Pure, and vectorised over runs in front: a judgement passes one run, the simulations of its error rates thousands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BATCHES = 20
"""Batches a run is cut into to measure how far slow requests cluster."""

NEAR = 0.25
"""Requests above this share of the limit say how slow ones cluster, even where none was over it."""

FAR = 3.0
"""A request above this multiple of the limit is far over it."""

_MOST_LAG = 0.9


@dataclass(frozen=True)
class Batches:
    """A run seen from one limit. Arrays have one shape [...] of runs in front, empty for a single run.

    Attributes:
        n: requests in each run.
        length: requests in each of the 20 batches; up to 19 at the end belong to none. 0 if there are fewer than 20.
        over: [...] requests over the limit, of all n.
        far: [...] requests over three times the limit, of all n.
        over_share: [..., 20] share over the limit in each batch.
        excess: [..., 20] mean in each batch of ``clip(latency / limit - 1/4, 0, 1)``.
        excess_variance: [...] variance of that over single requests, those of the 20 batches.
    """

    n: int
    length: int
    over: Floats
    far: Floats
    over_share: Floats
    excess: Floats
    excess_variance: Floats


def excess_of(latency: Floats, limit: float) -> Floats:
    """How far each request reached towards the limit: 0 up to a quarter of it, 1 from five quarters on."""
    return np.clip(latency / limit - NEAR, 0.0, 1.0)


def cut(latency: Floats, limit: float) -> Batches:
    """One run's latencies, in order of the schedule; infinite where there was no good answer."""
    n = len(latency)
    length = n // BATCHES
    over, excess = latency > limit, excess_of(latency, limit)
    kept = BATCHES * length
    over_share = means = np.zeros(BATCHES)
    variance = 0.0
    if length:
        over_share = over[:kept].reshape(BATCHES, length).mean(axis=1)
        means = excess[:kept].reshape(BATCHES, length).mean(axis=1)
        variance = float(excess[:kept].var(ddof=1))
    far = np.asarray((latency > FAR * limit).sum(), dtype=np.float64)
    return Batches(n, length, np.asarray(over.sum(), dtype=np.float64), far, over_share, means, np.asarray(variance))


def lag_factor(batches: Floats) -> Floats:
    """``(1 + r) / (1 - r)`` for the correlation r of consecutive batches: 1 where batches are long enough to be
    independent, above where they are not, and then their variance shows too little of the clusters.

    It is the exact correction for an AR(1) series; r is kept within 0 … 0.9.
    """
    centred = batches - batches.mean(axis=-1, keepdims=True)
    square = (centred * centred).sum(axis=-1)
    product = (centred[..., 1:] * centred[..., :-1]).sum(axis=-1)
    r = np.divide(product, square, out=np.zeros_like(square), where=square > 0)
    r = np.clip(r, 0.0, _MOST_LAG)
    return np.asarray((1.0 + r) / (1.0 - r))


def inflation_of_means(batches: Floats, length: int, variance: npt.ArrayLike) -> Floats:
    """``max(1, l Var(batch means) / variance)`` times the lag factor: how many requests count as one."""
    independent = np.asarray(variance, dtype=np.float64)
    spread = length * np.asarray(batches.var(axis=-1, ddof=1))
    spread, independent = np.broadcast_arrays(spread, independent)
    ratio = np.divide(spread, independent, out=np.ones(spread.shape), where=independent > 1e-15)
    # Rounded: 1.0000000000000002 instead of 1 would take a request away when n is divided by it.
    return np.asarray(np.maximum(1.0, np.round(ratio * lag_factor(batches), 9)))


def excess_inflation(run: Batches) -> Floats:
    """By how much the excess over a quarter of the limit varies more from batch to batch than single requests would."""
    return inflation_of_means(run.excess, run.length, run.excess_variance)


def inflation(run: Batches, allowed: float, stretch: Floats | None = None) -> Floats:
    """The number of requests that count as one: the larger of the clustering of requests over the limit (measured
    against the variance at exactly the allowed share) and that of the excess (``stretch``, where it is known)."""
    marks = inflation_of_means(run.over_share, run.length, allowed * (1.0 - allowed))
    return np.maximum(marks, excess_inflation(run) if stretch is None else stretch)
