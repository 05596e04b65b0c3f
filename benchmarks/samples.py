"""How a measurement is taken and summed up: arms in turn, in an order drawn anew each round, and their spread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nlpdeploy.bundle.compare import quantile

Arm = Callable[[int], float]
"""Told the round's number, measures once."""


@dataclass(frozen=True)
class Spread:
    """Samples summed up; quantiles are nearest-rank, so each number is one of the samples.

    Attributes:
        count: number of samples.
        median: of the samples, as are ``min``, ``p25``, ``p75``, ``p95`` and ``max``.
    """

    count: int
    median: float
    min: float
    p25: float
    p75: float
    p95: float
    max: float

    def __format__(self, spec: str) -> str:
        """``median [p25, p75]``, each number in the format given."""
        return f"{self.median:{spec}} [{self.p25:{spec}}, {self.p75:{spec}}]"


def spread(samples: Sequence[float], scale: float = 1.0) -> Spread:
    """Sum up ``scale`` times the samples.

    Raises:
        InvalidInput: no samples, or a NaN.
    """
    values = scale * np.asarray(samples, dtype=np.float64)
    middle = {name: quantile(values, p) for name, p in (("p25", 0.25), ("median", 0.5), ("p75", 0.75), ("p95", 0.95))}
    return Spread(count=len(values), min=float(values.min()), max=float(values.max()), **middle)


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """The ratios of samples of the same rounds."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def differences(above: Sequence[float], below: Sequence[float], scale: float = 1.0) -> Spread:
    """The differences of samples of the same rounds."""
    return spread([a - b for a, b in zip(above, below, strict=True)], scale)


def interleave(
    arms: Mapping[str, Arm], *, seconds: float, least: int, rng: np.random.Generator
) -> dict[str, list[float]]:
    """Take each arm once a round, in an order drawn anew: what the machine does meanwhile touches all alike.

    Args:
        arms: by name; each returns its sample.
        seconds: time to spend; no round starts after it.
        least: rounds that are taken whatever the time.
        rng: draws the orders.

    Returns:
        Samples by arm, as many for each, in the order of the rounds.
    """
    names = list(arms)
    samples: dict[str, list[float]] = {name: [] for name in names}
    stop = time.perf_counter() + seconds
    done = 0
    while done < least or time.perf_counter() < stop:
        for i in rng.permutation(len(names)):
            samples[names[i]].append(arms[names[i]](done))
        done += 1
    return samples
