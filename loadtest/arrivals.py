"""When requests are due and which text each carries: pure functions of the plan's numbers and the worker's index.

The schedule is open loop: it is fixed before the first request and a slow server doesn't slow it down.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..bundle.errors import InvalidInput
from .plan import Arrivals, Block, Plan
from .trace import read_trace

_ARRIVALS, _PAYLOADS = 1, 2


def arrival_offsets(
    kind: Arrivals, rate: float, seconds: float, seed: int, worker: int, workers: int
) -> npt.NDArray[np.float64]:
    """When one worker's requests are due.

    Poisson workers draw from streams of their own (``SeedSequence`` children by worker index): workers that seed one
    generator alike would send in lockstep. Independent Poisson streams of ``rate / workers`` merge to one of ``rate``.
    Constant workers take turns on one grid, so that their merged arrivals stand ``1 / rate`` apart.

    Args:
        kind: ``poisson`` or ``constant``.
        rate: arrivals a second over all workers.
        seconds: length of the schedule.
        seed: the block's seed.
        worker: 0 … workers - 1.
        workers: how many there are.

    Returns:
        [arrivals] seconds from the block's start, increasing, all below ``seconds``.

    Raises:
        InvalidInput: a rate, a length or a worker index out of range.
    """
    if not (rate > 0 and seconds > 0 and math.isfinite(rate * seconds)):
        raise InvalidInput("arrivals", found=f"{rate:g}/s for {seconds:g} s", wanted="both finite and above 0")
    if not 0 <= worker < workers:
        raise InvalidInput("worker", found=worker, wanted=f"0 to {workers - 1}")
    if kind == "constant":
        total = math.ceil(rate * seconds - 1e-9)
        return np.arange(worker, total, workers, dtype=np.float64) / rate
    own_rate = rate / workers
    random = _stream(seed, _ARRIVALS, worker)
    expected = own_rate * seconds
    offsets = np.cumsum(random.exponential(1.0 / own_rate, math.ceil(expected + 6.0 * math.sqrt(expected) + 10.0)))
    while offsets[-1] < seconds:
        more = np.cumsum(random.exponential(1.0 / own_rate, len(offsets)))
        offsets = np.concatenate([offsets, offsets[-1] + more])
    return np.asarray(offsets[offsets < seconds], dtype=np.float64)


def block_offsets(plan: Plan, block: Block, worker: int) -> npt.NDArray[np.float64]:
    """When one worker's requests of a block are due: [arrivals] seconds from the block's start, increasing.

    Gamma, ramp and replayed schedules are made as a whole and dealt out to the workers in turn, so that what the server
    meets doesn't depend on how many there are.

    Raises:
        InvalidInput, NotFound: the trace is not the plan's, or gone.
    """
    if plan.arrivals in ("poisson", "constant"):
        return arrival_offsets(plan.arrivals, plan.rate, plan.block_seconds, block.seed, worker, plan.workers)
    whole = {"gamma": _gamma, "ramp": _ramp, "replay": _replay}[plan.arrivals](plan, block.seed)
    return np.ascontiguousarray(whole[worker :: plan.workers])


def block_rows(plan: Plan, block: Block, worker: int, count: int) -> npt.NDArray[np.int32]:
    """Which data row each of a worker's requests of a block carries: [count], drawn, or the trace's own order."""
    if plan.trace is not None and plan.trace.texts:
        return np.arange(worker, plan.trace.rows, plan.workers, dtype=np.int32)[:count]
    return payload_rows(plan.data.rows, count, block.seed, worker)


def _gamma(plan: Plan, seed: int) -> npt.NDArray[np.float64]:
    """Independent gamma gaps: shape 1 / burstiness², mean 1 / rate."""
    random, shape = _stream(seed, _ARRIVALS, 0), plan.burstiness**-2
    count = math.ceil(1.2 * plan.rate * plan.block_seconds + 20.0)
    offsets = np.cumsum(random.gamma(shape, 1.0 / (shape * plan.rate), count))
    while offsets[-1] < plan.block_seconds:
        more = np.cumsum(random.gamma(shape, 1.0 / (shape * plan.rate), count))
        offsets = np.concatenate([offsets, offsets[-1] + more])
    return np.asarray(offsets[offsets < plan.block_seconds], dtype=np.float64)


def _ramp(plan: Plan, seed: int) -> npt.NDArray[np.float64]:
    """Poisson arrivals at a rate that rises along a line: unit ones, moved to where the expected count passes them."""
    random, seconds = _stream(seed, _ARRIVALS, 0), plan.block_seconds
    first, slope = plan.ramp_from, (plan.rate - plan.ramp_from) / seconds
    total = (plan.ramp_from + plan.rate) / 2.0 * seconds
    unit = np.cumsum(random.exponential(1.0, math.ceil(total + 8.0 * math.sqrt(total) + 20.0)))
    unit = unit[unit < total]
    if slope == 0.0:
        return np.asarray(unit / first, dtype=np.float64)
    # The root of first t + slope t² / 2 = count, in the form that stands a slope near zero.
    offsets = 2.0 * unit / (first + np.sqrt(np.maximum(first * first + 2.0 * slope * unit, 0.0)))
    return np.asarray(offsets[offsets < seconds], dtype=np.float64)


def _replay(plan: Plan, _: int) -> npt.NDArray[np.float64]:
    """The trace's own gaps, all stretched alike so that they come at the plan's rate."""
    assert plan.trace is not None  # noqa: S101  (the plan's own rule)
    offsets = read_trace(plan.trace) / plan.rate
    return np.asarray(offsets[offsets < plan.block_seconds], dtype=np.float64)


def payload_rows(rows: int, count: int, seed: int, worker: int) -> npt.NDArray[np.int32]:
    """Which data row each of a worker's requests carries: shuffles of all rows, one after the other.

    Args:
        rows: usable rows of the data file.
        count: requests of this worker.
        seed: the block's seed.
        worker: the worker's index.

    Returns:
        [count] row numbers below ``rows``.
    """
    if rows < 1:
        raise InvalidInput("data rows", found=rows, wanted="at least 1")
    random = _stream(seed, _PAYLOADS, worker)
    shuffles = [random.permutation(rows) for _ in range(math.ceil(count / rows))]
    return np.asarray(np.concatenate([*shuffles, np.empty(0, dtype=np.int64)])[:count], dtype=np.int32)


def _stream(seed: int, purpose: int, worker: int) -> np.random.Generator:
    # What SeedSequence(seed).spawn would hand to child `worker`, without making its elder siblings.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, worker)))
