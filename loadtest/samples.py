"""Raw samples and the run's record on disk: what measuring writes and judging reads.

A run folder holds ``run.json`` (the plan, the machine, the workers' books) and one ``samples-<block>-<worker>.bin`` for
each block and worker: a JSON header line, then one fixed-size record a request, written as it is settled. A killed
worker leaves a readable file; half a record at its end is left out.
"""

from __future__ import annotations

import json
import os
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bundle.errors import InvalidInput, NotFound, StoreFailed
from .plan import Block, Plan, Side, draw_blocks

SCHEMA = 2
RECORD_FILE = "run.json"
NEVER = float("nan")
"""``sent`` of an arrival that was not sent, ``ended`` of a request without an end."""


class Outcome(IntEnum):
    """How a request was settled, once. All but OK count as over every limit."""

    OK = 0
    ERROR = 1
    """Refused, failed, or unreadable."""
    TIMEOUT = 2
    """No answer within the plan's timeout, counted from the schedule."""
    OVER_CAP = 3
    """Due while the most requests allowed were under way; not sent."""
    UNFINISHED = 4
    """Sent, and neither answered nor given up when the run ended."""
    WRONG_ANSWER = 5
    """Answered with status OK, but malformed, of the wrong shape, or not the expected label."""


FAILED = (Outcome.ERROR, Outcome.TIMEOUT, Outcome.WRONG_ANSWER)

_PACK = struct.Struct("<dddihB")
_DTYPE = np.dtype(
    [
        ("scheduled", "<f8"),
        ("sent", "<f8"),
        ("ended", "<f8"),
        ("payload", "<i4"),
        ("status", "<i2"),
        ("outcome", "u1"),
    ]
)


def sample_path(run_dir: Path, block: int, worker: int) -> Path:
    """The samples file of one worker in one block."""
    return run_dir / f"samples-{block:03d}-{worker:02d}.bin"


class SampleLog:
    """One worker's samples in one block; each is on its way to the disk when ``append`` returns."""

    def __init__(self, run_dir: Path, block: Block, worker: int) -> None:
        """Start a file; an old one of the same block and worker is replaced.

        Raises:
            StoreFailed: the folder can't be written.
        """
        self.path = sample_path(run_dir, block.index, worker)
        header = {"schema": SCHEMA, "block": block.index, "side": block.side, "worker": worker}
        try:
            self._file = open(self.path, "wb", buffering=0)  # noqa: SIM115  (closed by close)
            self._file.write(json.dumps(header).encode() + b"\n")
        except OSError as error:
            raise StoreFailed("samples file", found=error, mend="give a --run-dir that can be written") from error

    def append(
        self, scheduled: float, sent: float, ended: float, outcome: Outcome, payload: int, status: int = 0
    ) -> None:
        """Write one settled request.

        Args:
            scheduled: when it was due, in seconds from the block's start (as ``arrival_offsets`` gave it).
            sent: when it was sent, on the same clock; ``NEVER`` where it was not.
            ended: when its answer was there or it was given up; ``NEVER`` where it was not.
            outcome: how it was settled.
            payload: its data row.
            status: the gRPC or HTTP status behind it.

        Raises:
            StoreFailed: the disk is full.
        """
        try:
            self._file.write(_PACK.pack(scheduled, sent, ended, payload, status, outcome))
        except OSError as error:
            raise StoreFailed("samples file", found=error) from error

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        self._file.close()

    def __enter__(self) -> SampleLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class WorkerBooks:
    """One worker's own count of one block, kept apart from its samples so that each checks the other.

    Attributes:
        block: the block's index.
        worker: the worker's index.
        scheduled: arrivals that were due.
        outcomes: count by outcome name, e.g. ``{"OK": 990, "ERROR": 10}``.
        digests: answers by the bundle digest that they carried; empty where the server sends none.
        engines: answers by the engine that they carried.
        problem: what ended the worker early, e.g. ``exit status -9``; None where it ran to its end.
    """

    block: int
    worker: int
    scheduled: int
    outcomes: Mapping[str, int]
    digests: Mapping[str, int] = field(default_factory=dict)
    engines: Mapping[str, int] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class ServerFacts:
    """What a side's server said of itself before the traffic.

    Attributes:
        url: its address.
        digest: bundle digest in a first answer's parameters; None where it sends none.
        engine: engine in a first answer's parameters.
    """

    url: str
    digest: str | None = None
    engine: str | None = None


@dataclass(frozen=True)
class RunRecord:
    """``run.json``: everything about a run but its samples.

    Attributes:
        plan: what was to be done.
        started: when, as an ISO 8601 UTC time.
        machine: the client's machine and versions, for the report.
        servers: by side.
        blocks: in the order in which they ran.
        block_starts: seconds from the run's start to each block's start, by block index.
        books: by block and worker.
        interrupted: why the run was cut short; None where it was not.
        measured_s: what was due before this second of the schedule is settled, of a run of one block that ended before
            its schedule did; None where the whole schedule is.
    """

    plan: Plan
    started: str
    machine: Mapping[str, Any]
    servers: Mapping[Side, ServerFacts]
    blocks: tuple[Block, ...]
    block_starts: tuple[float, ...] = ()
    books: tuple[WorkerBooks, ...] = ()
    interrupted: str | None = None
    measured_s: float | None = None


def write_record(run_dir: Path, record: RunRecord) -> None:
    """Write ``run.json`` so that a reader sees the old one or the new one, whole.

    Raises:
        StoreFailed: the folder can't be written.
    """
    value = {"schema": SCHEMA, **asdict(record), "plan": record.plan.to_json()}
    partial = run_dir / f"{RECORD_FILE}.{os.getpid()}.partial"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(run_dir / RECORD_FILE)
    except OSError as error:
        raise StoreFailed("run folder", found=error, mend="give a --run-dir that can be written") from error


def read_record(run_dir: Path) -> RunRecord:
    """Read ``run.json``.

    Raises:
        NotFound: no such file.
        InvalidInput: it is not a run's record, or one of another schema.
    """
    path = run_dir / RECORD_FILE
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(
            "run folder",
            found=str(run_dir),
            wanted=f"a folder with {RECORD_FILE}",
            mend="give loadtest run's --run-dir",
        ) from error
    except (OSError, ValueError) as error:
        raise InvalidInput(str(path), found=error, wanted="a run's record") from error
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        found = value.get("schema") if isinstance(value, dict) else type(value).__name__
        raise InvalidInput(str(path), found=f"schema {found}", wanted=f"schema {SCHEMA}")
    try:
        record = RunRecord(
            plan=Plan.from_json(value["plan"]),
            started=value["started"],
            machine=value["machine"],
            servers={side: ServerFacts(**facts) for side, facts in value["servers"].items()},
            blocks=tuple(Block(**block) for block in value["blocks"]),
            block_starts=tuple(value["block_starts"]),
            books=tuple(WorkerBooks(**books) for books in value["books"]),
            interrupted=value["interrupted"],
            measured_s=value["measured_s"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(str(path), found=f"{type(error).__name__}: {error}", wanted="a run's record") from error
    if record.plan.trace is not None:  # its copy goes where the folder goes
        trace = replace(record.plan.trace, path=str(run_dir / Path(record.plan.trace.path).name))
        record = replace(record, plan=replace(record.plan, trace=trace))
    if record.blocks != draw_blocks(record.plan):
        raise InvalidInput(str(path), found="other blocks", wanted="the blocks that its plan draws")
    return record


@dataclass(frozen=True)
class Samples:
    """One side's samples, by block in the order of the run and by schedule within a block.

    Attributes (columns of one length):
        scheduled: float64 seconds from the block's start.
        sent, ended: float64 on the same clock; NaN where there is none.
        payload: int32 data row.
        status: int16 gRPC or HTTP status.
        outcome: uint8 :class:`Outcome`.
        block: int32 block index.
        worker: int32 worker index.
    """

    scheduled: npt.NDArray[np.float64]
    sent: npt.NDArray[np.float64]
    ended: npt.NDArray[np.float64]
    payload: npt.NDArray[np.int32]
    status: npt.NDArray[np.int16]
    outcome: npt.NDArray[np.uint8]
    block: npt.NDArray[np.int32]
    worker: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.scheduled)

    @property
    def latency(self) -> npt.NDArray[np.float64]:
        """Seconds from the schedule to the answer; infinite where there was no good answer."""
        return np.where(self.outcome == Outcome.OK, self.ended - self.scheduled, np.inf)

    @property
    def lateness(self) -> npt.NDArray[np.float64]:
        """Seconds from the schedule to the send, of the requests that were sent."""
        late = self.sent - self.scheduled
        return np.asarray(late[~np.isnan(late)], dtype=np.float64)

    def counts(self) -> dict[Outcome, int]:
        """Requests by outcome; every outcome is a key."""
        seen = Counter(self.outcome.tolist())
        return {outcome: seen[outcome] for outcome in Outcome}

    def where(self, mask: npt.NDArray[np.bool_]) -> Samples:
        """The samples of a mask."""
        columns = {name: getattr(self, name)[mask] for name in Samples.__dataclass_fields__}
        return replace(self, **columns)


def read_samples(run_dir: Path, side: Side = "candidate") -> Samples:
    """All workers' samples of one side, merged.

    Raises:
        InvalidInput: a file that is not a samples file, or with an outcome that doesn't exist.
    """
    tables = []
    for path in sorted(run_dir.glob("samples-*.bin")):
        header, table = _read_file(path)
        if header["side"] == side:
            tables.append((np.full(len(table), header["block"]), np.full(len(table), header["worker"]), table))
    table = np.concatenate([np.empty(0, _DTYPE), *(table for _, _, table in tables)])
    block = np.concatenate([np.empty(0, np.int32), *(block for block, _, _ in tables)]).astype(np.int32)
    worker = np.concatenate([np.empty(0, np.int32), *(worker for _, worker, _ in tables)]).astype(np.int32)
    order = np.lexsort((worker, table["scheduled"], block))
    columns = {name: np.ascontiguousarray(table[name][order]) for name in _DTYPE.names or ()}
    return Samples(**columns, block=block[order], worker=worker[order])


def _read_file(path: Path) -> tuple[dict[str, Any], npt.NDArray[np.void]]:
    content = path.read_bytes()
    line, newline, body = content.partition(b"\n")
    try:
        header = json.loads(line)
        known = bool(newline) and header["schema"] == SCHEMA and {"block", "side", "worker"} <= header.keys()
    except (ValueError, KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise InvalidInput(f"samples file {path.name}", found=line[:60], wanted=f"a header of schema {SCHEMA}")
    table = np.frombuffer(body[: len(body) - len(body) % _DTYPE.itemsize], dtype=_DTYPE)
    if len(table) and int(table["outcome"].max()) > max(Outcome):
        raise InvalidInput(f"samples file {path.name}", found=int(table["outcome"].max()), wanted="a known outcome")
    return header, table
