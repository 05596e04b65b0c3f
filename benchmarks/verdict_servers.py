"""Simulated servers whose latency percentiles are known, many runs side by side: numpy alone, time runs down the rows.

Time is counted in mean services (in units of the noise's median for :class:`Noise`). Each server starts in its steady
state, and ``chunk`` goes on from where the last one ended.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Protocol

import numpy as np
import numpy.typing as npt

Singles = npt.NDArray[np.float32]
SHARES = (0.5, 0.95, 0.99)
_FORGOTTEN = 500  # requests after which a batch server no longer shows what its queue was
_FEW_RUNS = 500  # below, a step of numpy costs more than what it does


class Server(Protocol):
    """One simulated server at one utilisation."""

    name: str
    utilisation: float

    @property
    def rate(self) -> float:
        """Arrivals in a unit of time."""

    def quantile(self, share: float) -> float:
        """The true latency that a share of requests stays within."""

    def start(self, random: np.random.Generator, runs: int) -> None:
        """Begin so many independent runs."""

    def chunk(self, random: np.random.Generator, steps: int) -> Singles:
        """Latencies [steps, runs] of the next requests of each run, in order of arrival."""

    def keep(self, runs: npt.NDArray[np.bool_]) -> None:
        """Go on with these runs alone."""


@dataclass
class Queue:
    """One server that answers in order: Lindley's recursion ``latency' = max(latency - gap, 0) + service``."""

    utilisation: float
    name: str = ""
    _latency: Singles = field(default_factory=lambda: np.zeros(0, np.float32))

    @property
    def rate(self) -> float:
        """See :class:`Server`; services take 1 on average."""
        return self.utilisation

    def keep(self, runs: npt.NDArray[np.bool_]) -> None:
        """See :class:`Server`."""
        self._latency = self._latency[runs]

    def _follow(self, gaps: Singles, services: Singles) -> Singles:
        if len(self._latency) < _FEW_RUNS:
            return self._follow_by_sums(gaps, services)
        latency = self._latency
        for at in range(len(gaps)):
            # In place: the gap's row becomes the latency's.
            row = gaps[at]
            np.subtract(latency, row, out=row)
            np.maximum(row, 0.0, out=row)
            row += services[at]
            latency = row
        self._latency = latency.copy()
        return gaps

    def _follow_by_sums(self, gaps: Singles, services: Singles) -> Singles:
        """The same without a step of Python for each request: waiting is a walk above its running minimum."""
        before = np.concatenate([self._latency[np.newaxis], np.broadcast_to(services, gaps.shape)[:-1]])
        walk = np.cumsum(before - gaps, axis=0, dtype=np.float64)
        waiting = walk - np.minimum(np.minimum.accumulate(walk, axis=0), 0.0)
        latency = waiting.astype(np.float32) + services
        self._latency = latency[-1].copy()
        return np.asarray(latency, dtype=np.float32)


@dataclass
class MM1(Queue):
    """Poisson arrivals, exponential services: latency is exponential with mean 1 / (1 - utilisation)."""

    name: str = "M/M/1"

    def quantile(self, share: float) -> float:
        """See :class:`Server`."""
        return -math.log(1.0 - share) / (1.0 - self.utilisation)

    def start(self, random: np.random.Generator, runs: int) -> None:
        """See :class:`Server`."""
        self._latency = (random.exponential(1.0 / (1.0 - self.utilisation), runs)).astype(np.float32)

    def chunk(self, random: np.random.Generator, steps: int) -> Singles:
        """See :class:`Server`."""
        gaps = random.standard_exponential((steps, len(self._latency)), dtype=np.float32)
        gaps /= np.float32(self.utilisation)
        return self._follow(gaps, random.standard_exponential(gaps.shape, dtype=np.float32))


@dataclass
class MD1(Queue):
    """Poisson arrivals, constant services."""

    name: str = "M/D/1"

    def quantile(self, share: float) -> float:
        """By bisection of Erlang's (1909) distribution of the waiting time."""
        low, high = 0.0, 1.0
        while waiting_cdf(self.utilisation, high) < share:
            high *= 1.5
        for _ in range(60):
            middle = (low + high) / 2.0
            low, high = (middle, high) if waiting_cdf(self.utilisation, middle) < share else (low, middle)
        return 1.0 + low

    def start(self, random: np.random.Generator, runs: int) -> None:
        """Ten relaxation times from an empty queue."""
        self._latency = np.ones(runs, np.float32)
        for _ in range(math.ceil(10.0 / (1.0 - math.sqrt(self.utilisation)) ** 2 / 500)):
            self.chunk(random, 500)

    def chunk(self, random: np.random.Generator, steps: int) -> Singles:
        """See :class:`Server`."""
        gaps = random.standard_exponential((steps, len(self._latency)), dtype=np.float32)
        gaps /= np.float32(self.utilisation)
        return self._follow(gaps, np.ones((steps, 1), np.float32))


def waiting_cdf(utilisation: float, x: float) -> float:
    """P(wait <= x services) in M/D/1: ``(1 - u) sum_k (u (k - x))^k / k! exp(u (x - k))``, k up to x; x < 35."""
    terms = (
        (utilisation * (k - x)) ** k / math.factorial(k) * math.exp(utilisation * (x - k)) for k in range(int(x) + 1)
    )
    return (1.0 - utilisation) * math.fsum(terms)


@dataclass
class Bursts(Queue):
    """Gamma gaps with a coefficient of variation of 2, exponential services (GI/M/1): latency is exponential with mean
    1 / (1 - s), where s is the root below 1 of ``s = E[exp(-(1 - s) gap)]``."""

    name: str = "bursts"
    shape: float = 0.25

    @property
    def _root(self) -> float:
        rate, s = self.shape * self.utilisation, 0.5
        for _ in range(10_000):
            s = (rate / (rate + 1.0 - s)) ** self.shape
        return s

    def quantile(self, share: float) -> float:
        """See :class:`Server`."""
        return -math.log(1.0 - share) / (1.0 - self._root)

    def start(self, random: np.random.Generator, runs: int) -> None:
        """See :class:`Server`."""
        self._latency = random.exponential(1.0 / (1.0 - self._root), runs).astype(np.float32)

    def chunk(self, random: np.random.Generator, steps: int) -> Singles:
        """See :class:`Server`."""
        gaps = random.standard_gamma(self.shape, (steps, len(self._latency)), dtype=np.float32)
        gaps /= np.float32(self.shape * self.utilisation)
        return self._follow(gaps, random.standard_exponential(gaps.shape, dtype=np.float32))


@dataclass
class Noise:
    """No queue: log-normal latencies (sigma 0.5) with an AR(1) logarithm. It forgets as slowly as a queue of its
    utilisation u, with coefficient ``1 - (1 - u)^2``."""

    utilisation: float
    name: str = "noise"
    sigma: float = 0.5
    _state: Singles = field(default_factory=lambda: np.zeros(0, np.float32))

    @property
    def rate(self) -> float:
        """See :class:`Server`; as many as the utilisation says would be in flight."""
        return self.utilisation

    def quantile(self, share: float) -> float:
        """See :class:`Server`."""
        return math.exp(self.sigma * NormalDist().inv_cdf(share))

    def start(self, random: np.random.Generator, runs: int) -> None:
        """See :class:`Server`."""
        self._state = random.standard_normal(runs, dtype=np.float32)

    def chunk(self, random: np.random.Generator, steps: int) -> Singles:
        """See :class:`Server`."""
        keep = np.float32(1.0 - (1.0 - self.utilisation) ** 2)
        values = random.standard_normal((steps, len(self._state)), dtype=np.float32)
        values *= np.sqrt(np.float32(1.0) - keep * keep)
        state = self._state
        for row in values:
            row += keep * state
            state = row
        self._state = state.copy()
        np.multiply(values, np.float32(self.sigma), out=values)
        return np.exp(values, out=values)

    def keep(self, runs: npt.NDArray[np.bool_]) -> None:
        """See :class:`Server`."""
        self._state = self._state[runs]


_BATCH_PERCENTILES = {
    0.5: (2.4809, 3.8032, 4.4649),
    0.6: (2.7529, 4.3186, 5.1246),
    0.7: (3.0951, 4.9809, 6.0774),
    0.8: (3.5652, 6.1052, 7.5785),
    0.9: (4.4882, 8.8934, 11.8093),
}
"""Latencies of :class:`BatchServer` at ``SHARES``, by utilisation: those of 320 million simulated requests each."""


@dataclass
class BatchServer:
    """One engine that takes all that wait, up to 8, whenever it is free; a batch of k takes 1 + k / 4.

    Its percentiles have no formula. Utilisation is of the 8 / 3 that it can do.
    """

    utilisation: float
    name: str = "batches"
    most: int = 8
    fixed: float = 1.0
    each: float = 0.25
    _gaps: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def rate(self) -> float:
        """See :class:`Server`."""
        return self.utilisation * self.most / (self.fixed + self.each * self.most)

    def quantile(self, share: float) -> float:
        """See :class:`Server`; for the utilisations of :data:`_BATCH_PERCENTILES` alone."""
        return _BATCH_PERCENTILES[self.utilisation][SHARES.index(share)]

    def start(self, random: np.random.Generator, runs: int) -> None:
        """See :class:`Server`."""
        self._gaps = self._draw(random, _FORGOTTEN + self.most, runs)

    def chunk(self, random: np.random.Generator, steps: int) -> Singles:
        """See :class:`Server`.

        The latest 500 arrivals are all that is kept from chunk to chunk: what a queue was so long ago no
        longer shows. So a few long runs are cut into many stretches, each begun early from an empty queue and gone
        through side by side; and each sees the few arrivals after it that its last batch may still take.
        """
        gaps = np.concatenate([self._gaps, self._draw(random, steps, self._gaps.shape[1])])
        self._gaps = gaps[steps:].copy()
        parts = self._parts(steps)
        length = steps // parts
        rows = _FORGOTTEN + length + self.most
        side_by_side = np.concatenate([gaps[at * length : at * length + rows] for at in range(parts)], axis=1)
        latency = self._answer(side_by_side)[_FORGOTTEN : _FORGOTTEN + length]
        return np.ascontiguousarray(latency.reshape(length, parts, -1).swapaxes(0, 1).reshape(steps, -1))

    def keep(self, runs: npt.NDArray[np.bool_]) -> None:
        """See :class:`Server`."""
        self._gaps = self._gaps[:, runs]

    def _draw(self, random: np.random.Generator, steps: int, runs: int) -> npt.NDArray[np.float64]:
        gaps = random.standard_exponential((steps, runs))
        gaps /= self.rate
        return gaps

    def _parts(self, steps: int) -> int:
        """Into how many stretches a chunk is cut: until numpy has a thousand runs to do at once, or they get short."""
        wanted = min(1000 // self._gaps.shape[1], steps // (2 * _FORGOTTEN))
        return max((parts for parts in range(1, wanted + 1) if steps % parts == 0), default=1)

    def _answer(self, gaps: npt.NDArray[np.float64]) -> Singles:
        """Latencies of an empty queue's arrivals, row by row: one joins the batch before it if it came no later than
        that began and there is room; else it begins the next, when the engine is free. How large its batch became is
        known afterwards, from behind."""
        due = np.cumsum(gaps, axis=0)
        joined, ended = np.empty(due.shape, dtype=bool), gaps  # the gaps' place is taken by the ends
        begun, size, end = np.full(due.shape[1], -np.inf), np.zeros(due.shape[1]), np.zeros(due.shape[1])
        for at, now in enumerate(due):
            joins = np.logical_and(now <= begun, size < self.most, out=joined[at])
            begun = np.where(joins, begun, np.maximum(end, now))
            size *= joins
            size += 1.0
            end = np.add(begun, self.fixed + self.each * size, out=ended[at])
        for at in range(len(due) - 1, 0, -1):
            np.copyto(ended[at - 1], ended[at], where=joined[at])
        return np.asarray(ended - due, dtype=np.float32)


SERVERS = (MM1, MD1, BatchServer, Bursts, Noise)
