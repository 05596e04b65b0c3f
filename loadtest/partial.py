"""What is left of a comparison that was stopped by hand: the groups of pairs that were run whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .arrivals import block_offsets
from .plan import Block, Side
from .samples import RunRecord, Samples, read_samples

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


def _is_whole(record: RunRecord, block: Block) -> bool:
    """Whether every worker settled all that the block's schedule holds."""
    settled = {entry.worker: entry.scheduled for entry in record.books if entry.block == block.index}
    return all(
        settled.get(worker) == len(block_offsets(record.plan, block, worker)) for worker in range(record.plan.workers)
    )
