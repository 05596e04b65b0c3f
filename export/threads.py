"""How many threads answer a lone text fastest on this machine: one, or all cores. Short texts often gain from one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..bundle.manifest import EngineEntry
from ..runtime.catalogue import load_engine
from ..runtime.cores import usable_cores
from ..runtime.engine import Engine, EngineOptions
from ..runtime.text import Row
from .checkpoint import Checkpoint
from .grid import evenly
from .reference import TorchReference
from .timing import lone_seconds

SAMPLE = 48


def load_on_best_threads(
    entry: EngineEntry, folder: Path, rows: Sequence[Row], pad_id: int
) -> tuple[Engine, EngineEntry]:
    """The engine on the better number of threads, and its entry with that number, for whoever loads it.

    Args:
        entry: of the engine.
        folder: the bundle's folder.
        rows: the user's rows.
        pad_id: of the model.

    Raises:
        EngineUnavailable, EngineFailed: it can't be loaded, or the runtime raised.
    """
    cores = usable_cores()
    every = load_engine(entry, folder, EngineOptions(cores))
    if cores == 1:
        return every, entry
    single = load_engine(entry, folder, EngineOptions(1))
    sample = evenly(rows, SAMPLE)
    alone, together = (lone_seconds(engine, sample, pad_id) for engine in (single, every))
    best, other, threads = (single, every, 1) if alone < together else (every, single, cores)
    other.close()
    return best, replace(entry, options={**entry.options, "lone_threads": threads, "cores": cores})


def with_threads(engine: Engine, entry: EngineEntry, folder: Path, *, lone: bool) -> Engine:
    """An engine on the threads that it needs: those of lone texts, or one as in a lane of a busy server.

    Args:
        engine: on the other number; closed where the two differ.
        entry: of the engine.
        folder: the bundle's folder.
        lone: which of the two.

    Raises:
        EngineUnavailable, EngineFailed: it can't be loaded again.
    """
    threads = int(entry.options.get("lone_threads") or 1)
    if threads == 1:
        return engine
    engine.close()
    return load_engine(entry, folder, EngineOptions(threads if lone else 1))


def reference_threads(checkpoint: Checkpoint, rows: Sequence[Row]) -> int:
    """The better number for PyTorch: a baseline must not be slow by its settings.

    Raises:
        EngineFailed: PyTorch raised.
    """
    seconds = {}
    for threads in (1, usable_cores()):
        reference = TorchReference(checkpoint, threads=threads)
        seconds[threads] = lone_seconds(reference, evenly(rows, SAMPLE), checkpoint.model.pad_id)
        reference.close()
    return min(seconds, key=seconds.__getitem__)
