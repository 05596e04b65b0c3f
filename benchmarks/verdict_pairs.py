"""Simulated comparisons of two servers in ABBA blocks: how often a difference is found that is there, or is not.

Each pair of blocks has the same arrivals and the same texts on both sides, as a real run has: a service is the text's
work times a noise of its own, the faster server does it in less time, and the machine slows down over the run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nlpdeploy.loadtest.contrast import contrast

PAIRS = 20
BLOCK_REQUESTS = 600
SHARE = 0.95
DRIFT = 1.3
"""By how much slower the machine is at the end of a run than at its beginning."""


@dataclass(frozen=True)
class Comparisons:
    """What simulated comparisons said.

    Attributes:
        utilisation: of the slower server at the start.
        speed: the baseline's service time over the candidate's: 1 for the same server twice.
        runs: how many.
        holds_one: share of the intervals that hold 1.
        faster, slower: shares of the findings.
    """

    utilisation: float
    speed: float
    runs: int
    holds_one: float
    faster: float
    slower: float


def compare_servers(utilisation: float, speed: float, runs: int, seed: int) -> Comparisons:
    """Simulate comparisons of p95 over 20 pairs of blocks of 600 requests."""
    random = np.random.default_rng(seed)
    found = [contrast("p95", _one_run(random, utilisation, speed)) for _ in range(runs)]
    holds = sum(each.low is not None and each.high is not None and each.low <= 1.0 <= each.high for each in found)
    faster = sum(each.finding == "faster" for each in found)
    slower = sum(each.finding == "slower" for each in found)
    return Comparisons(utilisation, speed, runs, holds / runs, faster / runs, slower / runs)


def _one_run(random: np.random.Generator, utilisation: float, speed: float) -> list[tuple[float, float]]:
    """(candidate, baseline) p95 of every pair."""
    shape = (PAIRS, BLOCK_REQUESTS)
    gaps, work = random.exponential(1.0 / utilisation, shape), random.gamma(4.0, 0.25, shape)
    first = np.repeat(random.integers(2, size=PAIRS // 2), 2) ^ np.tile([0, 1], PAIRS // 2)  # AB then BA, or the other
    place = 2 * np.arange(PAIRS)[:, np.newaxis] + np.stack([first, 1 - first], axis=1)
    slowness = 1.0 + (DRIFT - 1.0) * place / (2 * PAIRS - 1)
    sides = [
        _p95(gaps, slowness[:, [side]] * work / quicker * random.lognormal(0.0, 0.1, shape))
        for side, quicker in ((0, speed), (1, 1.0))
    ]
    return list(zip(sides[0].tolist(), sides[1].tolist(), strict=True))


def _p95(gaps: npt.NDArray[np.float64], services: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of each row, a block that begins with an empty queue."""
    steps = np.cumsum(services[:, :-1] - gaps[:, 1:], axis=1)
    walk = np.concatenate([np.zeros((len(gaps), 1)), steps], axis=1)
    latency = walk - np.minimum.accumulate(walk, axis=1) + services
    rank = int(np.ceil(SHARE * latency.shape[1] - 1e-9)) - 1
    return np.asarray(np.partition(latency, rank, axis=1)[:, rank])
