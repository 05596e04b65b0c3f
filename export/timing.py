"""How fast engines are, on this machine and on the user's own mix of lengths.

Latency is measured interleaved: in each round every engine runs the same text, in an order drawn anew, so that a clock
that changes or a neighbour that wakes up touches all engines alike. Each first runs another text that is not counted: a
server's caches hold the weights of its own engine, not of all that are measured beside it. Times are of the engine's
call alone, ``perf_counter`` around ``run``; tokenising and padding cost every engine the same.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..bundle.compare import quantile
from ..bundle.errors import EngineFailed, InvalidInput
from ..bundle.evidence import Latency
from ..bundle.specs import ModelSpec
from ..runtime.batching import lay_out
from ..runtime.calls import MAX_ROWS, batches_of
from ..runtime.engine import Engine, Feed
from ..runtime.text import Row

Progress = Callable[[str, int, int], None]
_MIN_ROUNDS = 20
_WARM_SHARE, _ALONE_SHARE = 0.15, 0.55
_MOST_BATCHED = 512
_WINDOW = 64
"""Texts that wait together: what a busy server has to choose its batches from. From the whole file at once, sorted by
length, padded engines would find batches without padding that no traffic offers."""


class EngineStopped(EngineFailed):
    """An engine raised while it was timed.

    Args:
        engine: its id among those timed.
        error: what it raised.
    """

    def __init__(self, engine: str, error: EngineFailed) -> None:
        self.engine = engine
        super().__init__(f"while it was timed: {error.line()}")


def measure_latency(
    engines: Mapping[str, Engine],
    rows: Sequence[Row],
    model: ModelSpec,
    *,
    baseline: str = "torch-fp32",
    budget_seconds: float,
    seed: int,
    narrow: Callable[[str], Engine] | None = None,
    progress: Progress | None = None,
) -> dict[str, Latency]:
    """Time the engines at batch 1 over rows drawn from ``rows``, and in batches.

    ``speedup`` is the ratio of medians, the baseline's over the engine's, of the same texts in the same rounds: whoever
    divides two numbers of the table finds the third. Lengths are run once by each engine before they are timed, so
    that the price of a new shape is not in the numbers.

    Args:
        engines: by id, the baseline among them.
        rows: the user's rows; their lengths are the mix.
        baseline: id of the engine that the others are compared with.
        budget_seconds: time to spend. At least 20 rounds and one pass over batches are run, whatever they take.
        seed: draws rows and orders.
        narrow: gives the engine of an id on one thread, for the batches; it may close the one that ran alone. By
            default the same engines run both.
        progress: told (stage, tenths of a second spent, tenths in all).

    Raises:
        InvalidInput: no rows, or the baseline is not among the engines.
        EngineStopped: an engine raised; its times and those measured beside it are void.
    """
    if baseline not in engines or not rows:
        found = f"{len(rows)} rows, engines {', '.join(engines)}"
        raise InvalidInput("timing", found=found, wanted=f"at least one row, and {baseline} among the engines")
    rng = np.random.default_rng(seed)
    clock = _Clock(budget_seconds, progress)
    drawn = [rows[i] for i in rng.permutation(len(rows))]
    warm = _warm_up(engines, drawn, model, clock)
    seconds = _time_alone(engines, warm, model, clock, rng)
    throughput = _time_batches(_narrowed(engines, narrow), drawn, model, clock, seconds, rng)
    middle = quantile(seconds[baseline], 0.5)
    return {
        name: Latency(
            p50_ms=1e3 * quantile(taken, 0.5),
            p95_ms=1e3 * quantile(taken, 0.95),
            speedup=middle / quantile(taken, 0.5),
            texts_per_second=throughput[name],
            samples=len(taken),
        )
        for name, taken in seconds.items()
    }


def _narrowed(engines: Mapping[str, Engine], narrow: Callable[[str], Engine] | None) -> Mapping[str, Engine]:
    if narrow is None:
        return engines
    narrowed: dict[str, Engine] = {}
    for name in engines:
        try:
            narrowed[name] = narrow(name)
        except EngineFailed as error:
            raise EngineStopped(name, error) from error
    return narrowed


class _Clock:
    """The time that may be spent, and word of how much of it is gone."""

    def __init__(self, budget: float, progress: Progress | None) -> None:
        self._started = time.perf_counter()
        self._budget = budget
        self._progress = progress

    def left(self, share: float) -> bool:
        """Whether less than ``share`` of the budget is spent."""
        spent = time.perf_counter() - self._started
        if self._progress:
            total = max(1, round(10 * self._budget))
            self._progress("timing the engines", min(total, int(10 * spent)), total)
        return spent < share * self._budget

    def rest(self) -> float:
        """Seconds that are left of the whole budget, at least 0."""
        return max(0.0, self._budget - (time.perf_counter() - self._started))


def call_seconds(engine: Engine, feed: Feed) -> float:
    """Seconds of one call.

    Raises:
        EngineFailed: the runtime raised.
    """
    started = time.perf_counter()
    engine.run(feed)
    return time.perf_counter() - started


def lone_seconds(engine: Engine, rows: Sequence[Row], pad_id: int) -> float:
    """Median seconds of a call with one of the rows alone, after a few to warm up.

    Raises:
        EngineFailed: the runtime raised.
    """
    feeds = [lay_out([row], engine.layout, engine.inputs, pad_id) for row in rows]
    for feed in feeds[:4]:
        engine.run(feed)
    return statistics.median(call_seconds(engine, feed) for feed in feeds)


def _seconds(engines: Mapping[str, Engine], name: str, rows: Sequence[Row], model: ModelSpec) -> float:
    engine = engines[name]
    feed = lay_out(rows, engine.layout, engine.inputs, model.pad_id)
    try:
        return call_seconds(engine, feed)
    except EngineFailed as error:
        raise EngineStopped(name, error) from error


def _warm_up(engines: Mapping[str, Engine], drawn: Sequence[Row], model: ModelSpec, clock: _Clock) -> list[Row]:
    """Run each length once, in the order drawn; the rows whose lengths are warm when the time for it is over."""
    lengths: set[int] = set()
    for row in drawn:
        if len(row) in lengths:
            continue
        if lengths and not clock.left(_WARM_SHARE):
            break
        for name in engines:
            _seconds(engines, name, [row], model)
        lengths.add(len(row))
    return [row for row in drawn if len(row) in lengths]


def _time_alone(
    engines: Mapping[str, Engine], rows: Sequence[Row], model: ModelSpec, clock: _Clock, rng: np.random.Generator
) -> dict[str, list[float]]:
    names = list(engines)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    done = 0
    while done < _MIN_ROUNDS or clock.left(_WARM_SHARE + _ALONE_SHARE):
        row, before = rows[done % len(rows)], rows[(done - 1) % len(rows)]
        for i in rng.permutation(len(names)):
            _seconds(engines, names[i], [before], model)
            seconds[names[i]].append(_seconds(engines, names[i], [row], model))
        done += 1
    return seconds


def _time_batches(
    engines: Mapping[str, Engine],
    drawn: Sequence[Row],
    model: ModelSpec,
    clock: _Clock,
    alone: Mapping[str, Sequence[float]],
    rng: np.random.Generator,
) -> dict[str, float]:
    """Texts a second in the batches that each engine's layout makes of windows of texts in the order drawn.

    A window's time is the median over passes, after one pass that is not counted.
    """
    sample = drawn[: _affordable(alone, clock)]
    windows = [sample[i : i + _WINDOW] for i in range(0, len(sample), _WINDOW)]
    names = list(engines)
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in windows] for name in names}
    passes = 0
    while passes < 2 or clock.left(1.0):
        for number, window in enumerate(windows):
            for i in rng.permutation(len(names)):
                batches = batches_of([len(row) for row in window], engines[names[i]].layout)
                taken = math.fsum(_seconds(engines, names[i], [window[k] for k in batch], model) for batch in batches)
                if passes:
                    seconds[names[i]][number].append(taken)
        passes += 1
    return {name: len(sample) / math.fsum(quantile(taken, 0.5) for taken in seconds[name]) for name in names}


def _affordable(alone: Mapping[str, Sequence[float]], clock: _Clock) -> int:
    """How many rows three passes of all engines can run in the rest of the budget, if a batch gained nothing."""
    each = math.fsum(math.fsum(taken) / len(taken) for taken in alone.values())
    return max(MAX_ROWS, min(_MOST_BATCHED, int(clock.rest() / (3 * each))))
