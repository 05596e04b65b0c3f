"""What engine calls take on this machine, measured when a server starts: the curve from export is put right by it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np

from ..bundle.specs import Layout, ModelSpec
from ..runtime.batching import call_size, lay_out
from ..runtime.engine import Engine, Feed
from ..runtime.text import Row

SECONDS = 0.25
"""Longest measurement of one set of engines; a call under way is finished."""
TIMED_CALLS = 2
"""After one that may have to prepare for a new shape."""
PACKED_TOKENS = (16, 32, 64, 128, 256)
PADDED_SHAPES = ((1, 16), (1, 64), (8, 16), (1, 128), (8, 32), (16, 32))
"""Rows and tokens of each; like the packed ones from cheap to costly."""

Point = tuple[int, int, float]


def measure(
    engines: Sequence[Engine],
    samples: Sequence[Row],
    model: ModelSpec,
    *,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Point]:
    """Time calls of several sizes, all engines at it at once, as under load.

    Args:
        engines: of one kind, idle; nobody else calls them meanwhile.
        samples: real rows, at least one; they are cut and repeated to the lengths wanted.
        model: its limits.
        seconds: no further size is begun after so many.
        clock: monotonic seconds.

    Returns:
        Elements and rows of each size (``runtime.batching.call_size``), and the median of its seconds; at least one.

    Raises:
        EngineFailed: a runtime raised.
    """
    layout, started = engines[0].layout, clock()
    points: list[Point] = []
    with ThreadPoolExecutor(len(engines)) as threads:
        for rows in _calls(samples, layout, model.max_length):
            feeds = [lay_out(rows, layout, engine.inputs, model.pad_id) for engine in engines]
            times: list[float] = []
            for turn in range(1 + TIMED_CALLS):
                taken = list(threads.map(_timed, engines, feeds, itertools.repeat(clock)))
                times += taken if turn else []
            points.append((*call_size([len(row) for row in rows], layout), median(times)))
            if clock() - started > seconds:
                break
    return points


def _timed(engine: Engine, feed: Feed, clock: Callable[[], float]) -> float:
    started = clock()
    engine.run(feed)
    return clock() - started


def _calls(samples: Sequence[Row], layout: Layout, max_length: int) -> list[list[Row]]:
    if layout is Layout.PACKED:
        return [_packed(samples, tokens) for tokens in PACKED_TOKENS]
    shapes = dict.fromkeys((rows, min(length, max_length)) for rows, length in PADDED_SHAPES)
    return [[_resized(samples[k % len(samples)], length) for k in range(rows)] for rows, length in shapes]


def _packed(samples: Sequence[Row], tokens: int) -> list[Row]:
    """Samples one after the other, the last one cut, of so many tokens altogether."""
    rows: list[Row] = []
    for row in itertools.cycle(samples):
        rest = tokens - sum(map(len, rows))
        if rest <= 0:
            return rows
        rows.append(_resized(row, min(len(row), rest)))
    return rows


def _resized(row: Row, length: int) -> Row:
    return Row(np.resize(row.input_ids, length), np.resize(row.token_type_ids, length))
