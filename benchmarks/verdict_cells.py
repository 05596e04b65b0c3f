"""One cell of the verdict's error rates: thousands of simulated runs against one server at one utilisation.

The decisions are the product's own (:func:`nlpdeploy.loadtest.certify.decide`), made for all runs at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nlpdeploy.loadtest.assess import Timeline, assess, overall
from nlpdeploy.loadtest.certify import Verdict, decide
from nlpdeploy.loadtest.clusters import BATCHES, FAR, Batches, excess_of
from nlpdeploy.loadtest.lengths import BETTER, Advice, advise_from
from nlpdeploy.loadtest.looks import draw_looks
from nlpdeploy.loadtest.plan import DataFile, Plan, draw_blocks
from nlpdeploy.loadtest.samples import Outcome, Samples
from nlpdeploy.loadtest.targets import parse_target

from .verdict_servers import Server, Singles

UNIT = 50
"""Requests that are summed up at once; lengths are multiples of 20 units."""

SIMULATED = {"at the limit": 1.0, "5 % below": 0.95, "5 % above": 1.05}
"""The true percentile as a share of the limit. Better servers are :func:`power_at_advised_length`'s."""

_CHUNK = 1000
_CHUNK_SAMPLES = 1_000_000
_LEAST_RUNS = 50
_LEAVE = 0.2  # leave off finished runs when so many of those that go on are


@dataclass
class Units:
    """What a limit needs to know of runs, summed over units of 50 requests; arrays [units, runs]."""

    over: Singles
    far: Singles
    excess: Singles
    square: Singles

    @classmethod
    def of(cls, latency: Singles, limit: float) -> Units:
        """Of latencies [steps, runs]; steps are a multiple of 50."""
        rows = latency.reshape(-1, UNIT, latency.shape[1])
        excess = excess_of(rows, np.float32(limit))
        over, far = (_counted(rows > np.float32(bound)) for bound in (limit, FAR * limit))
        total = excess.sum(axis=1)
        return cls(over, far, total, np.einsum("ijk,ijk->ik", excess, excess))

    def join(self, others: Sequence[Units]) -> Units:
        """These, then the others."""
        parts = [self, *others]
        names = ("over", "far", "excess", "square")
        return Units(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def columns(self, chosen: npt.NDArray[np.intp]) -> Units:
        """Some of the runs."""
        return Units(self.over[:, chosen], self.far[:, chosen], self.excess[:, chosen], self.square[:, chosen])

    def batches(self, n: int) -> Batches:
        """The first n requests of every run, as one run is cut by :func:`nlpdeploy.loadtest.clusters.cut`."""
        units, length = n // UNIT, n // BATCHES
        assert length % UNIT == 0

        def in_batches(values: Singles) -> npt.NDArray[np.float64]:
            sums = values[:units].reshape(BATCHES, -1, values.shape[1]).sum(axis=1, dtype=np.float64)
            return np.ascontiguousarray(sums.T)

        over, excess = in_batches(self.over), in_batches(self.excess)
        total, square = excess.sum(axis=1), self.square[:units].sum(axis=0, dtype=np.float64)
        variance = np.maximum(square - total * total / n, 0.0) / (n - 1)
        far = self.far[:units].sum(axis=0, dtype=np.float64)
        return Batches(n, length, over.sum(axis=1), far, over / length, excess / length, variance)


def _counted(marks: npt.NDArray[np.bool_]) -> Singles:
    return marks.sum(axis=1, dtype=np.uint8).astype(np.float32)


@dataclass(frozen=True)
class Rates:
    """Shares of the runs of one length and margin."""

    length: int
    confirmed: float
    refuted: float


@dataclass(frozen=True)
class ErrorRates:
    """What thousands of runs against one server said.

    Attributes:
        fixed: by margin, for each length.
        sequential: by margin, of runs that stop at the first look that decides; ``length`` is the mean.
    """

    fixed: dict[str, list[Rates]]
    sequential: dict[str, Rates]


def error_rates(
    server: Server, shares: Sequence[float], lengths: Sequence[int], runs: int, seed: int
) -> dict[float, ErrorRates]:
    """Simulate runs and judge each by the shares' percentiles, at every margin and length.

    Args:
        server: to simulate.
        shares: e.g. 0.95.
        lengths: requests a run, each twice the one before; multiples of 1,000. The longest is that of the sequential.
        runs: how many.
        seed: of the simulation.
    """
    random = np.random.default_rng(seed)
    server.start(random, runs)
    wanted = [(share, margin) for share in shares for margin in SIMULATED]
    parts: dict[tuple[float, str], list[Units]] = {key: [] for key in wanted}
    for _ in range(lengths[-1] // _CHUNK):
        latency = server.chunk(random, _CHUNK)
        for share, margin in wanted:
            parts[share, margin].append(Units.of(latency, server.quantile(share) / SIMULATED[margin]))
    found = {}
    for share in shares:
        units = {margin: parts[share, margin][0].join(parts[share, margin][1:]) for margin in SIMULATED}
        allowed = round(1.0 - share, 12)
        fixed = {margin: [_fixed(units[margin], n, allowed) for n in lengths] for margin in SIMULATED}
        sequential = {margin: _sequential(units[margin], lengths, allowed) for margin in SIMULATED}
        found[share] = ErrorRates(fixed, sequential)
    return found


def _fixed(units: Units, n: int, allowed: float) -> Rates:
    decision = decide(units.batches(n), allowed)
    return Rates(n, float(decision.confirmed.mean()), float(decision.refuted.mean()))


def _sequential(units: Units, lengths: Sequence[int], allowed: float) -> Rates:
    """Stop at the first look that decides, as ``--until-decided`` does."""
    runs = units.over.shape[1]
    confirmed, refuted, stopped = np.zeros(runs, bool), np.zeros(runs, bool), np.zeros(runs)
    looks = [look for look in draw_looks(float(lengths[-1])) if look.at_s >= lengths[0]]
    for look in looks:
        decision = decide(units.batches(int(look.at_s)), allowed, look.confidence)
        going = ~(confirmed | refuted)
        stopped[going] = look.at_s
        confirmed |= going & decision.confirmed
        refuted |= going & decision.refuted
    return Rates(int(stopped.mean()), float(confirmed.mean()), float(refuted.mean()))


@dataclass(frozen=True)
class Power:
    """Runs of the length that a pilot run of their own advised, against a server 10 % better than the limit.

    Attributes:
        runs: how many.
        pilot: requests in each pilot: doubled until 19 in 20 pilots could tell the clustering.
        length: the median of the advised lengths, in requests.
        confirmed: share confirmed.
    """

    runs: int
    pilot: int
    length: int
    confirmed: float


def power_at_advised_length(server: Server, share: float, most_requests: float, seed: int, most_runs: int) -> Power:
    """Pilot, advice, run: each run has its own pilot, and is judged when its advised length is reached.

    Args:
        server: to simulate.
        share: of the percentile, e.g. 0.95.
        most_requests: to simulate over all runs; it decides how many runs there are.
        seed: of the simulation.
        most_runs: however few requests they take.
    """
    random = np.random.default_rng(seed)
    pilot, advice = _trusted_pilot(server, share, random, 200)
    runs = int(np.clip(most_requests / (pilot + 1.3 * float(np.median(advice.requests))), _LEAST_RUNS, most_runs))
    _, advice = _pilot(server, share, random, runs, pilot)
    step = BATCHES * UNIT
    lengths = (np.ceil(advice.requests / step) * step).astype(np.int64)
    limit, allowed = server.quantile(share) / BETTER, round(1.0 - share, 12)
    confirmed = _judge_at(server, random, lengths, limit, allowed)
    return Power(runs, pilot, int(np.median(lengths)), float(confirmed.mean()))


def _trusted_pilot(server: Server, share: float, random: np.random.Generator, runs: int) -> tuple[int, Advice]:
    pilot = 2000
    while True:
        _, advice = _pilot(server, share, random, runs, pilot)
        if advice.trusted.mean() >= 0.95:
            return pilot, advice
        pilot *= 2


def _pilot(
    server: Server, share: float, random: np.random.Generator, runs: int, n: int
) -> tuple[npt.NDArray[np.float64], Advice]:
    """Advice of each run's own pilot; those that could not tell the clustering take the median advice."""
    server.start(random, runs)
    latency = np.concatenate([server.chunk(random, _CHUNK) for _ in range(n // _CHUNK)])
    rank = int(np.ceil(share * n - 1e-9)) - 1
    reached = np.partition(latency, rank, axis=0)[rank].astype(np.float64)
    rows = [Units.of(latency[:, [run]], reached[run] / BETTER).batches(n) for run in range(runs)]
    names = ("over", "far", "over_share", "excess", "excess_variance")
    pilots = Batches(n, n // BATCHES, *(np.concatenate([getattr(row, name) for row in rows]) for name in names))
    advice = advise_from(pilots, round(1.0 - share, 12))
    usual = np.median(advice.requests[advice.trusted]) if advice.trusted.any() else np.median(advice.requests)
    return reached, Advice(np.where(advice.trusted, advice.requests, usual), advice.trusted)


def _judge_at(
    server: Server, random: np.random.Generator, lengths: npt.NDArray[np.int64], limit: float, allowed: float
) -> npt.NDArray[np.bool_]:
    """Whether each run is confirmed at its own length; runs that have reached theirs are left off now and then."""
    confirmed = np.zeros(len(lengths), dtype=bool)
    going, parts, reached = np.arange(len(lengths)), list[Units](), 0
    server.start(random, len(lengths))
    while len(going):
        chunk = max(_CHUNK, _CHUNK_SAMPLES // len(going) // UNIT * UNIT)
        parts.append(Units.of(server.chunk(random, chunk), limit))
        reached += chunk
        done = lengths[going] <= reached
        if done.mean() < _LEAVE:
            continue
        whole = parts[0].join(parts[1:])
        for n in np.unique(lengths[going[done]]):
            columns = np.flatnonzero(lengths[going] == n)
            confirmed[going[columns]] = decide(whole.columns(columns).batches(int(n)), allowed).confirmed
        parts, going = [whole.columns(np.flatnonzero(~done))], going[~done]
        server.keep(~done)
    return confirmed


def whole_judgement(server: Server, share: float, n: int, runs: int, seed: int) -> Rates:
    """Runs at the limit judged whole, run by run, as a stored one is: warm-up and steadiness too.

    Args:
        server: to simulate.
        share: of the percentile, e.g. 0.95.
        n: requests in each run.
        runs: how many.
        seed: of the simulation.
    """
    random = np.random.default_rng(seed)
    server.start(random, runs)
    latency = np.concatenate([server.chunk(random, _CHUNK) for _ in range(n // _CHUNK)]).astype(np.float64)
    # A second is a mean gap between requests, so that the requests in flight are those of the queue.
    scale = server.rate
    target = parse_target(f"p{100 * share:g}={scale * server.quantile(share):.9f}s")
    data = DataFile("simulated", "", 1, "text")
    plan = Plan("http://simulated", "m", data, (target,), rate=1.0, seconds=float(n), timeout_s=1e9)
    found = [overall(assess(plan, _line(plan, scale * latency[:, run]), plan.targets)[1]) for run in range(runs)]
    return Rates(n, found.count(Verdict.CONFIRMED) / runs, found.count(Verdict.REFUTED) / runs)


def _line(plan: Plan, latency: npt.NDArray[np.float64]) -> Timeline:
    due = np.arange(len(latency), dtype=np.float64)
    none = np.zeros(len(latency), np.int32)
    samples = Samples(
        due, due, due + latency, none, none.astype(np.int16), np.full(len(latency), Outcome.OK, np.uint8), none, none
    )
    return Timeline(samples, due, due + latency, plan.seconds, draw_blocks(plan))
