"""Recorded arrivals: a file with the time of each request, and perhaps its text."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..bundle.digest import file_digest
from ..bundle.errors import InvalidInput, NotFound
from .payloads import read_columns
from .plan import TraceFile

DEFAULT_COLUMN = "timestamp"


def open_trace(path: Path, column: str | None = None, *, texts: bool = False) -> tuple[TraceFile, float]:
    """Read and check a trace.

    Args:
        path: ``.csv``, ``.tsv`` or ``.jsonl`` with a column of times, or plain text with a time a line. A time is a
            number of seconds or ISO 8601; the first counts as 0, and none is before the one above it.
        column: of the times; by default ``timestamp``, or the only column.
        texts: whether the file is the data file too, and each arrival carries its own row's text.

    Returns:
        The trace, and its own rate: arrivals a second from its first to its last.

    Raises:
        NotFound: no such file or column.
        InvalidInput: what is there are not times in order, or all at one moment.
    """
    offsets, column = _read(path, column)
    if len(offsets) < 2 or offsets[-1] <= 0.0:
        raise InvalidInput(f"trace {path}", found=f"{len(offsets)} times", wanted="at least two different ones")
    return TraceFile(str(path), file_digest(path), len(offsets), column, texts), (len(offsets) - 1) / float(offsets[-1])


def read_trace(trace: TraceFile) -> npt.NDArray[np.float64]:
    """The times of a trace: [rows] seconds from the first, scaled so that arrivals come once a second on average.

    Raises:
        NotFound: the file is gone.
        InvalidInput: it has changed.
    """
    path = Path(trace.path)
    if path.is_file() and file_digest(path) != trace.digest:
        raise InvalidInput(f"trace {path}", found="another content", wanted=f"SHA-256 {trace.digest}")
    offsets, _ = _read(path, trace.column)
    return np.asarray(offsets * ((len(offsets) - 1) / offsets[-1]), dtype=np.float64)


def _read(path: Path, column: str | None) -> tuple[npt.NDArray[np.float64], str]:
    if not path.is_file():
        raise NotFound(f"trace {path}", found="no such file", mend="give a file with --trace")
    name, *cells = read_columns(path, [column], DEFAULT_COLUMN)
    times = [_seconds(path, number, row[0]) for number, row in enumerate(cells, 1)]
    offsets = np.asarray(times, dtype=np.float64) - (times[0] if times else 0.0)
    back = np.flatnonzero(np.diff(offsets) < 0)
    if len(back):
        raise InvalidInput(f"trace {path}, time {int(back[0]) + 2}", found="before the one above it", wanted="in order")
    return offsets, name[0]


def _seconds(path: Path, number: int, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = dt.datetime.fromisoformat(text.strip()).timestamp()
        except ValueError:
            seconds = math.nan
    if not math.isfinite(seconds):
        raise InvalidInput(f"trace {path}, time {number}", found=text, wanted="seconds or ISO 8601")
    return seconds
