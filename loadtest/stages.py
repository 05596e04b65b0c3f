"""What servers say of their own time: the stages in ``server-timing``, kept beside the samples.

Told by the server and not checked, so no verdict uses them; they say where the time goes.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..bundle.compare import quantile
from ..bundle.errors import StoreFailed
from .plan import Block, Side
from .samples import RunRecord

_STAGE = re.compile(r"\s*([A-Za-z0-9_.-]{1,64})\s*;(?:[^,]*;)?\s*dur=([0-9]+(?:\.[0-9]+)?)")

Columns = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class StageTime:
    """One stage over a run's good answers.

    Attributes:
        name: as the server calls it.
        answers: that told it.
        mean_ms, p50_ms, p95_ms, p99_ms: milliseconds.
    """

    name: str
    answers: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


def read_timing(header: str) -> dict[str, float]:
    """Milliseconds by stage of a ``server-timing`` (W3C Server Timing); entries without a duration are left out."""
    return {found[1]: float(found[2]) for entry in header.split(",") if (found := _STAGE.match(entry)) is not None}


def columns(headers: Iterable[str]) -> Columns:
    """Milliseconds of each stage, in the order of the answers that told it."""
    found: dict[str, list[float]] = {}
    for header in headers:
        for name, milliseconds in read_timing(header).items():
            found.setdefault(name, []).append(milliseconds)
    return {name: np.array(values, dtype=np.float64) for name, values in found.items()}


def write_stages(run_dir: Path, block: Block, worker: int, headers: Iterable[str]) -> None:
    """Keep one worker's of one block; nothing where no answer told any.

    Raises:
        StoreFailed: the folder can't be written.
    """
    told = columns(headers)
    if not told:
        return
    try:
        with _path(run_dir, block.index, worker).open("wb") as file:
            np.savez_compressed(file, **told)  # type: ignore[arg-type]
    except OSError as error:
        raise StoreFailed("stage times", found=error, mend="give a --run-dir that can be written") from error


def stage_times(run_dir: Path, record: RunRecord, side: Side) -> tuple[StageTime, ...]:
    """One side's stages, the longest first; empty where the server told none. A file that was cut short is left out."""
    told: dict[str, list[npt.NDArray[np.float64]]] = {}
    for block in (block for block in record.blocks if block.side == side):
        for worker in range(record.plan.workers):
            for name, values in _read(_path(run_dir, block.index, worker)).items():
                told.setdefault(name, []).append(values)
    found = [_summary(name, np.concatenate(parts)) for name, parts in told.items()]
    return tuple(sorted(found, key=lambda stage: -stage.mean_ms))


def _summary(name: str, values: npt.NDArray[np.float64]) -> StageTime:
    p50, p95, p99 = (quantile(values, share) for share in (0.5, 0.95, 0.99))
    return StageTime(name, len(values), float(values.mean()), p50, p95, p99)


def _read(path: Path) -> Columns:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return {}


def _path(run_dir: Path, block: int, worker: int) -> Path:
    return run_dir / f"stages-{block:03d}-{worker:02d}.npz"
