"""Load-test runs written to disk as a driver would, with answers that a function makes up: no traffic, no clock."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nlpdeploy.loadtest.arrivals import block_offsets, block_rows
from nlpdeploy.loadtest.plan import Block, DataFile, Plan, draw_blocks
from nlpdeploy.loadtest.samples import (
    _DTYPE,
    FAILED,
    NEVER,
    Outcome,
    RunRecord,
    SampleLog,
    ServerFacts,
    WorkerBooks,
    read_record,
    read_samples,
    write_record,
)
from nlpdeploy.loadtest.targets import parse_target

DATA = DataFile(path="texts.csv", digest="d" * 64, rows=50, text_column="text")
DIGEST = "a" * 64


@dataclass
class Answers:
    """What a made-up server and client did with one worker's arrivals."""

    latency: np.ndarray
    outcome: np.ndarray | None = None
    late: np.ndarray | float = 0.0
    digests: dict[str, int] = field(default_factory=dict)


def plan(*targets: str, **changes: Any) -> Plan:
    """A plan with the fields that don't matter filled in."""
    fields: dict[str, Any] = {
        "url": "http://127.0.0.1:8000",
        "model": "intent",
        "data": DATA,
        "targets": tuple(parse_target(text) for text in targets or ("p95=45ms",)),
        "rate": 100.0,
        "seconds": 10.0,
        "arrivals": "constant",
        "timeout_s": 5.0,
    }
    return Plan(**{**fields, **changes})


def store_run(
    run_dir: Path,
    made: Plan,
    serve: Callable[[Block, np.ndarray], Answers],
    *,
    lost: tuple[int, int] | None = None,
    interrupted: str | None = None,
) -> Path:
    """Write a run; ``serve`` answers each block's arrivals (seconds from the block's start), worker by worker."""
    books = []
    run_dir.mkdir(parents=True, exist_ok=True)
    blocks = draw_blocks(made)
    for block in blocks:
        for worker in range(made.workers):
            due = block_offsets(made, block, worker)
            rows = block_rows(made, block, worker, len(due))
            answers = serve(block, due)
            outcomes = _log(run_dir, block, worker, due, rows, answers)
            problem = "exit status -9" if lost == (block.index, worker) else None
            books.append(WorkerBooks(block.index, worker, len(due), outcomes, answers.digests, {}, problem))
    servers = {"candidate": ServerFacts(made.url, DIGEST, "onnx-int8")}
    if made.baseline_url:
        servers["baseline"] = ServerFacts(made.baseline_url, "b" * 64, "pytorch")
    starts = tuple(made.block_seconds * block.index for block in blocks)
    record = RunRecord(made, "2026-11-05T12:00:00Z", {"cores": 2}, servers, blocks, starts, tuple(books), interrupted)
    write_record(run_dir, record)
    return run_dir


def _log(
    run_dir: Path, block: Block, worker: int, due: np.ndarray, rows: np.ndarray, answers: Answers
) -> dict[str, int]:
    outcome = np.zeros(len(due), dtype=np.uint8) if answers.outcome is None else answers.outcome
    late = np.broadcast_to(answers.late, due.shape)
    table = np.zeros(len(due), _DTYPE)
    table["scheduled"], table["payload"], table["outcome"] = due, rows, outcome
    table["sent"] = np.where(outcome == Outcome.OVER_CAP, NEVER, due + late)
    table["ended"] = np.where(np.isin(outcome, (Outcome.OVER_CAP, Outcome.UNFINISHED)), NEVER, due + answers.latency)
    with SampleLog(run_dir, block, worker) as log, log.path.open("ab") as file:
        file.write(table.tobytes())  # what `append` writes one by one, which takes its time
    return {Outcome(int(how)).name: count for how, count in Counter(outcome.tolist()).items()}


def assert_books_balance(run_dir: Path) -> None:
    """Scheduled is ok, failed, over the cap and unfinished together: of each worker in each block, and of each side.

    A worker that came to its end wrote a sample for each; of one that was lost, what is missing is unfinished.
    """
    record = read_record(run_dir)
    for side in {block.side for block in record.blocks}:
        samples, own = read_samples(run_dir, side), {block.index for block in record.blocks if block.side == side}
        total: Counter[str] = Counter()
        books = [entry for entry in record.books if entry.block in own]
        for entry in books:
            counted = Counter({name: count for name, count in entry.outcomes.items() if count})
            total += counted
            assert entry.scheduled == _balance(counted), entry
            mine = samples.where((samples.block == entry.block) & (samples.worker == entry.worker))
            found = Counter({outcome.name: count for outcome, count in mine.counts().items() if count})
            missing = counted - found
            assert found <= counted, entry
            assert not missing or (entry.problem is not None and set(missing) == {"UNFINISHED"}), entry
        assert sum(entry.scheduled for entry in books) == _balance(total)


def _balance(outcomes: Mapping[str, int]) -> int:
    ok, over_cap, unfinished = (outcomes.get(name, 0) for name in ("OK", "OVER_CAP", "UNFINISHED"))
    failed = sum(outcomes.get(outcome.name, 0) for outcome in FAILED)
    return ok + failed + over_cap + unfinished


def queue_latency(due: np.ndarray, service: np.ndarray) -> np.ndarray:
    """Latencies of one server that answers in order: waiting (Lindley's recursion) plus service, in seconds."""
    steps = np.concatenate([[0.0], np.cumsum(service[:-1] - np.diff(due))])
    return steps - np.minimum.accumulate(steps) + service
