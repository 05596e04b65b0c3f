"""How many engines side by side, on how many threads each, and whether one on all the cores stands beside them.

Short texts under load are answered fastest by many narrow engines, since threads that share a small call mostly wait
for each other; a lone or a long text may be answered faster by all the cores at once. Which of the two holds depends on
the model, the runtime and the machine, so a server measures it when it starts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..bundle.specs import Layout, ModelSpec
from .batching import PACK_MULTIPLE, lay_out, token_budget
from .engine import Engine
from .text import Row

MAX_LANES = 4
"""Each lane holds the weights once more."""
MEASURE_SECONDS = 0.25
"""Twice that before it is said that nothing is gained: a neighbour on one core for so long would decide for good."""
WARM_SECONDS = 0.4
WIDE_WARM_SECONDS = 0.15
"""It is opened after the lanes, so that a start waits for all of it, and runs short rows mostly, which come first."""
CLEARLY = 0.9
"""A wide engine must take at most this share of a lane's time: it holds the weights once more."""
LONG_TOKENS = 128
_MOST_ROUNDS = 32


@dataclass(frozen=True)
class LayoutChoice:
    """The threads that a server's engines were loaded with, and why.

    Attributes:
        lanes: engines that run calls side by side.
        threads: of each lane.
        wide: threads of the wide engine; None where there is none.
        reason: why there is a wide engine or none.
        lone_ms: milliseconds of a lone text's quickest call, in a lane and wide; None where it was not measured.
        long_ms: the same for a text of ``long_tokens`` tokens.
        long_tokens: its length.
        seconds: spent measuring.
    """

    lanes: int
    threads: int
    wide: int | None
    reason: str
    lone_ms: tuple[float, float] | None = None
    long_ms: tuple[float, float] | None = None
    long_tokens: int = 0
    seconds: float = 0.0


def fill_cores(threads: int, cores: int) -> tuple[int, int]:
    """Lanes that fill the cores, and the threads of each: as many as wished, or more where lanes would be too many."""
    lanes = min(max(1, cores // threads), MAX_LANES)
    return lanes, max(threads, cores // lanes)


def side_by_side(open_lane: Callable[[], Engine], count: int) -> list[Engine]:
    """Open so many lanes at once, each in a thread of its own: on as many cores they are there as soon as one is.

    Raises:
        EngineFailed, EngineUnavailable: of the first lane that can't be opened; the others are closed again.
    """
    opened: list[Engine] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            opened.append(open_lane())
        except BaseException as error:  # noqa: BLE001  (raised again where all are waited for)
            failed.append(error)

    # Daemons, so that an interrupted start ends at once.
    threads = [threading.Thread(target=work, name="open lane", daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        for engine in opened:
            engine.close()
        raise failed[0]
    return opened


def warm_up(engine: Engine, model: ModelSpec, seconds: float = WARM_SECONDS) -> None:
    """Run each length that a packed row within the budget can have, so that no request pays for a new shape.

    Short ones first; stops after so many ``seconds``. Does nothing for padded engines, whose shapes can't be counted.

    Raises:
        EngineFailed: the runtime raised.
    """
    if engine.layout is not Layout.PACKED:
        return
    stop = time.perf_counter() + seconds
    for length in range(PACK_MULTIPLE, token_budget(Layout.PACKED) + 1, PACK_MULTIPLE):
        if time.perf_counter() > stop:
            return
        texts = [Row(np.full(part, model.pad_id), np.zeros(part, dtype=np.int64)) for part in _split(length, model)]
        engine.run(lay_out(texts, engine.layout, engine.inputs, model.pad_id))


def compare_wide(
    lane: Engine, wide: Engine, rows: Sequence[Row], model: ModelSpec, layout: LayoutChoice, threads: int
) -> LayoutChoice:
    """Time a lane and the wide engine by turns, on real rows alone and on a long one.

    It takes ``MEASURE_SECONDS``, twice that where nothing is gained, and one round at least.

    Args:
        lane: one of the lanes, which has run the rows before.
        wide: the engine on all the cores, likewise.
        rows: real rows, at least one.
        model: its limits.
        layout: the lanes.
        threads: the wide engine's.

    Returns:
        ``layout`` with what was measured; ``wide`` is set where it pays.

    Raises:
        EngineFailed: the runtime raised.
    """
    started = time.perf_counter()
    long = _long_row(rows, min(LONG_TOKENS, model.max_length))
    texts = {"a lone text": rows, f"a text of {len(long)} tokens": [long]}
    times: dict[str, list[tuple[float, float]]] = {what: [] for what in texts}
    gains: list[str] = []
    for turn in range(_MOST_ROUNDS):
        for what, some in reversed(texts.items()):
            row = some[turn % len(some)]
            times[what].append(_by_turns(lane, wide, row, model, first_wide=turn % 2 == 1))
        gains = _gains(times)
        if time.perf_counter() - started > (MEASURE_SECONDS if gains else 2 * MEASURE_SECONDS):
            break
    lone_ms, long_ms = map(_quickest, times.values())
    return LayoutChoice(
        lanes=layout.lanes,
        threads=layout.threads,
        wide=threads if gains else None,
        reason=f"all cores answer {' and '.join(gains)}" if gains else "all cores together are not clearly faster",
        lone_ms=lone_ms,
        long_ms=long_ms,
        long_tokens=len(long),
        seconds=time.perf_counter() - started,
    )


def _gains(times: Mapping[str, Sequence[tuple[float, float]]]) -> list[str]:
    """Texts that the wide engine answers clearly faster, in words."""
    quickest = {what: _quickest(measured) for what, measured in times.items()}
    return [
        f"{what} in {100 * wide_ms / lane_ms:.0f} % of a lane's time"
        for what, (lane_ms, wide_ms) in quickest.items()
        if wide_ms <= CLEARLY * lane_ms
    ]


def _by_turns(lane: Engine, wide: Engine, row: Row, model: ModelSpec, *, first_wide: bool) -> tuple[float, float]:
    """Seconds of one call in the lane and wide."""
    taken = {}
    for engine in (wide, lane) if first_wide else (lane, wide):
        feed = lay_out([row], engine.layout, engine.inputs, model.pad_id)
        began = time.perf_counter()
        engine.run(feed)
        taken[id(engine)] = time.perf_counter() - began
    return taken[id(lane)], taken[id(wide)]


def _quickest(times: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Of both columns, in milliseconds: a neighbour on the cores only ever slows a call, and few calls are measured."""
    lane, wide = (1e3 * min(column) for column in zip(*times, strict=True))
    return lane, wide


def _long_row(rows: Sequence[Row], length: int) -> Row:
    """Real tokens one after the other."""
    ids = np.concatenate([row.input_ids for row in rows])
    return Row(np.resize(ids, length), np.zeros(length, dtype=np.int64))


def _split(length: int, model: ModelSpec) -> list[int]:
    """Lengths of texts that fill a packed row."""
    most = min(model.max_length, length)
    return [most] * (length // most) + ([length % most] if length % most else [])
