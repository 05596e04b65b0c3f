"""What is left of a run that did not come to its end: of a comparison stopped by hand, of a worker that was lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from .arrivals import block_offsets
from .plan import Block, Plan, Side
from .samples import Outcome, RunRecord, Samples, WorkerBooks, read_samples

BY_HAND = {KeyboardInterrupt: "interrupted", SystemExit: "terminated"}
"""What ends a run from outside, and what the record says of it."""

GROUP = 4
"""Blocks of an ABBA or BAAB group: less of it would leave a drift on one side."""


def complete_part(record: RunRecord) -> RunRecord:
    """A comparison's record that was stopped by hand, reduced to its leading whole groups, as one that was measured so
    far; any other record, and one without a whole group, as it is."""
    plan = record.plan
    if plan.baseline_url is None or record.interrupted not in BY_HAND.values():
        return record
    whole = 0
    for block in record.blocks:
        if not _is_whole(record, block):
            break
        whole += 1
    whole -= whole % GROUP
    if not whole:
        return record
    return replace(
        record,
        blocks=record.blocks[:whole],
        books=tuple(entry for entry in record.books if entry.block < whole),
        measured_s=whole / 2 * plan.block_seconds,
    )


def samples_of(run_dir: Path, record: RunRecord, side: Side) -> Samples:
    """One side's samples of the record's blocks.

    Raises:
        InvalidInput: a file that is not a samples file.
    """
    samples = read_samples(run_dir, side)
    return samples.where(samples.block < len(record.blocks)) if record.measured_s is not None else samples


def books_of_lost(plan: Plan, run_dir: Path, block: Block, worker: int, elapsed: float, problem: str) -> WorkerBooks:
    """The books that a lost worker did not close: what stands on the disk, and the rest of what was due as UNFINISHED.

    Args:
        plan: the run's.
        run_dir: the run folder.
        block: in which it was lost.
        worker: its index.
        elapsed: seconds of the block's schedule until its loss was seen.
        problem: how it ended.
    """
    samples = read_samples(run_dir, block.side)
    mine = samples.where((samples.block == block.index) & (samples.worker == worker))
    outcomes = {outcome.name: count for outcome, count in mine.counts().items() if count}
    due = int(np.searchsorted(block_offsets(plan, block, worker), elapsed))
    if due > len(mine):
        name = Outcome.UNFINISHED.name
        outcomes[name] = outcomes.get(name, 0) + due - len(mine)
    return WorkerBooks(block.index, worker, max(due, len(mine)), outcomes, problem=problem)


def _is_whole(record: RunRecord, block: Block) -> bool:
    """Whether every worker settled all that the block's schedule holds."""
    settled = {entry.worker: entry.scheduled for entry in record.books if entry.block == block.index}
    return all(
        settled.get(worker) == len(block_offsets(record.plan, block, worker)) for worker in range(record.plan.workers)
    )
