"""How long a run must be to tell a service that keeps its promise from one that just fails to. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from ..bundle.compare import quantile
from .certify import CONFIDENCE, LEAST_CLUSTERS
from .clusters import Batches, cut, excess_inflation, inflation

Floats = npt.NDArray[np.float64]

BETTER = 0.9
"""The service that a proposed run is to confirm: its percentile is this share of the limit."""

POWER = 0.97
"""Chance that it is confirmed, if the clustering measured is the true one."""

RESERVE = 2.5
"""For clusters that are longer in the run than in the pilot, and for the spread of what 20 batches measure."""


@dataclass(frozen=True)
class Advice:
    """What a pilot run says about the length of a run that decides.

    Attributes:
        requests: so many confirm a service 10 % better than the limit in nine runs of ten; float64 [...].
        trusted: the pilot was long enough to measure the clustering; else ``requests`` is of a longer pilot.
    """

    requests: Floats
    trusted: npt.NDArray[np.bool_]


def advise(latency: Floats, share: float) -> Advice:
    """The length that a pilot run advises, whatever the limit is.

    The pilot's own percentile stands for the service's, so that neither its luck against the limit nor the limit itself
    decides; its tail says how many requests would be over a limit that is a ninth above it.

    Args:
        latency: [n] seconds by schedule, infinite where there was no good answer; n >= 1.
        share: e.g. 0.95 for p95.
    """
    reached = quantile(latency, share)
    if not 0.0 < reached < math.inf:
        return Advice(np.asarray(math.inf), np.asarray(False))
    return advise_from(cut(latency, reached / BETTER), round(1.0 - share, 12))


def advise_from(pilot: Batches, allowed: float) -> Advice:
    """The same for pilots, one or many, cut at a limit that is their percentile over 0.9.

    With q' the share over that limit, ``N = ((z(0.99) sqrt(q (1 - q)) + z(0.97) sqrt(q' (1 - q'))) / (q - q'))^2``
    independent requests tell q' from the allowed q; each stands for V of the run's, with a reserve of 2.5 times.
    A pilot with fewer than 60 stretches can't tell V, and is told how long a better one would be.
    """
    z_confidence, z_power = NormalDist().inv_cdf(CONFIDENCE), NormalDist().inv_cdf(POWER)
    beyond = np.minimum(pilot.over / pilot.n, 0.98 * allowed)
    spread = z_confidence * math.sqrt(allowed * (1.0 - allowed)) + z_power * np.sqrt(beyond * (1.0 - beyond))
    independent = (spread / (allowed - beyond)) ** 2
    stretch = excess_inflation(pilot)
    trusted = (stretch <= 1.0) | (pilot.n / stretch >= LEAST_CLUSTERS)
    wanted = RESERVE * np.maximum(independent * inflation(pilot, allowed, stretch), LEAST_CLUSTERS * stretch)
    return Advice(np.ceil(np.where(trusted, wanted, 2.0 * LEAST_CLUSTERS * stretch)), np.asarray(trusted))
