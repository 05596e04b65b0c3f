"""Measures the points of an engine's latency curve, by the layout of its rows; ``curve`` fits them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np

from ..bundle.compare import quantile
from ..bundle.curve import curve_of
from ..bundle.errors import InvalidInput
from ..bundle.evidence import LatencyCurve
from ..bundle.specs import Layout, ModelSpec
from ..runtime.batching import call_size, lay_out, token_budget
from ..runtime.calls import MAX_ROWS, MAX_TOKENS
from ..runtime.engine import Engine
from ..runtime.text import Row
from .timing import Progress, call_seconds

_CURVE_LENGTHS = (4, 8, 16, 32, 64, 128, 256, 512)
_PACKED_LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 320, 384, 512)
_ROW_COUNTS = (1, 2, 4, 8, 16, 32)
_MOST_PASSES = 9
_LEAST_POINTS = 6


def fit_curve(
    engine: Engine, rows: Sequence[Row], model: ModelSpec, *, budget_seconds: float, progress: Progress | None = None
) -> LatencyCurve:
    """Time calls over a grid of rows x length, cheap ones first, and fit the curve to their medians.

    A packed engine has one row of several lengths, filled with texts of the middle length of ``rows``.

    Args:
        engine: any engine.
        rows: real rows; rows of the grid's lengths are joined from their tokens.
        model: its limits.
        budget_seconds: time to spend; at least six points are measured once, whatever they take. Where the time does
            not reach the costly ones, the curve is extrapolated to them.
        progress: told (stage, points done, points in all).

    Raises:
        InvalidInput: no rows.
        EngineFailed: the engine raised.
    """
    if not rows:
        raise InvalidInput("latency curve", found="no rows", wanted="at least one")
    stop = time.perf_counter() + budget_seconds
    points = _packed_points(model) if engine.layout is Layout.PACKED else _padded_points(model)
    tokens = _joined(rows, max(length for _, length in points))
    middle = min(model.max_length, statistics.median_low(len(row) for row in rows))
    feeds = {}
    samples: dict[tuple[int, int], list[float]] = {}
    for count, length in points:
        left = stop - time.perf_counter()
        # First calls may pay for a new shape, so a point costs about twice what the forecast says, and passes follow.
        if len(samples) >= _LEAST_POINTS and _forecast(samples, count * length) * 3 > left / 2:
            break
        row = Row(tokens.input_ids[:length], tokens.token_type_ids[:length])
        call = _pieces(row, middle) if engine.layout is Layout.PACKED else [row] * count
        feed = feeds[count, length] = lay_out(call, engine.layout, engine.inputs, model.pad_id)
        engine.run(feed)
        samples[count, length] = [call_seconds(engine, feed)]
        if progress:
            progress(f"fitting the latency curve of {engine.id}", len(samples), len(points))
    for _ in range(_MOST_PASSES - 1):
        for point, feed in feeds.items():
            if time.perf_counter() > stop:
                break
            samples[point].append(call_seconds(engine, feed))
    measured = tuple((count, length, quantile(taken, 0.5)) for (count, length), taken in samples.items())
    return curve_of(measured)


def _padded_points(model: ModelSpec) -> list[tuple[int, int]]:
    lengths = sorted({min(length, model.max_length) for length in (*_CURVE_LENGTHS, model.max_length)})
    grid = [(count, length) for count in _ROW_COUNTS if count <= MAX_ROWS for length in lengths]
    # One row of the usable maximum may be over the budget of a batch; it is served all the same.
    return sorted((p for p in grid if p[0] * p[1] <= MAX_TOKENS or p[0] == 1), key=lambda p: p[0] * p[1])


def _packed_points(model: ModelSpec) -> list[tuple[int, int]]:
    longest, _ = call_size([model.max_length], Layout.PACKED)
    lengths = {length for length in _PACKED_LENGTHS if length < longest} | {longest, token_budget(Layout.PACKED)}
    return [(1, length) for length in sorted(lengths)]


def _pieces(row: Row, length: int) -> list[Row]:
    """A row cut into texts of a length, the last one maybe shorter."""
    return [
        Row(row.input_ids[start : start + length], row.token_type_ids[start : start + length])
        for start in range(0, len(row), length)
    ]


def _joined(rows: Sequence[Row], length: int) -> Row:
    """Real rows' tokens one after the other, at least ``length`` of them."""
    ids = np.concatenate([row.input_ids for row in rows[:512]])
    return Row(np.resize(ids, length), np.zeros(length, dtype=np.int64))


def _forecast(samples: dict[tuple[int, int], list[float]], tokens: int) -> float:
    """Seconds of a call with so many tokens, in proportion to the costliest call so far."""
    (count, length), taken = max(samples.items(), key=lambda item: item[0][0] * item[0][1])
    return taken[0] * tokens / (count * length)
