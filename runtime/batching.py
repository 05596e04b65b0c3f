"""Which rows go together, and how they are laid out. Pure functions over rows and specs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..bundle.errors import EngineFailed, Unsupported
from ..bundle.specs import Layout, TensorSpec
from .text import Row

PACK_MULTIPLE = 16
"""Lengths that a packed row may have: few shapes, so that a runtime need not prepare for new ones all the time."""


def call_size(lengths: Sequence[int], layout: Layout) -> tuple[int, int]:
    """Elements and rows of an engine call as a latency curve counts them.

    Padded: rows x longest, and the rows. Packed: one row that holds all tokens, rounded up to ``PACK_MULTIPLE``.
    """
    if layout is Layout.PACKED:
        return -(-sum(lengths) // PACK_MULTIPLE) * PACK_MULTIPLE, 1
    return len(lengths) * max(lengths), len(lengths)


def plan(lengths: Sequence[int], *, max_tokens: int, max_rows: int, layout: Layout = Layout.PADDED) -> list[list[int]]:
    """Split rows into batches under a token budget.

    For padded calls rows are sorted by length, so that padding stays small; a packed call has none, and rows keep their
    order. A batch is cut where its elements (see :func:`call_size`) would pass ``max_tokens`` or its rows ``max_rows``.
    A single row longer than the budget gets a batch of its own.

    Args:
        lengths: tokens of each row.
        max_tokens: budget of a batch in elements.
        max_rows: most rows of a batch.
        layout: how the engine wants its rows.

    Returns:
        Batches of indices into ``lengths``; each index exactly once.
    """
    if layout is Layout.PACKED:
        return _plan_packed(lengths, max_tokens, max_rows)
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        longest = lengths[index]  # sorted ascending: the newest is the longest
        if batches and len(batches[-1]) < max_rows and (len(batches[-1]) + 1) * longest <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _plan_packed(lengths: Sequence[int], max_tokens: int, max_rows: int) -> list[list[int]]:
    batches: list[list[int]] = []
    held = 0
    for index, length in enumerate(lengths):
        if batches and len(batches[-1]) < max_rows and held + length <= max_tokens:
            batches[-1].append(index)
            held += length
        else:
            batches.append([index])
            held = length
    return batches


def lay_out(
    rows: Sequence[Row], layout: Layout, inputs: Sequence[TensorSpec], pad_id: int
) -> dict[str, npt.NDArray[np.int64]]:
    """The feed for an engine: what its layout and its graph's own inputs ask for.

    Raises:
        Unsupported: a layout that no planner here knows.
        EngineFailed: the graph has an input that rows don't have.
    """
    if layout is not Layout.PADDED:
        raise Unsupported(f"row layout {layout}", wanted=Layout.PADDED)
    return _pad(rows, inputs, pad_id)


def _pad(rows: Sequence[Row], inputs: Sequence[TensorSpec], pad_id: int) -> dict[str, npt.NDArray[np.int64]]:
    longest = max(len(row) for row in rows)
    feed = {}
    for spec in inputs:
        if spec.name not in ("input_ids", "attention_mask", "token_type_ids"):
            raise EngineFailed(
                "input of the graph", found=spec.name, wanted="input_ids, attention_mask, token_type_ids"
            )
        tensor = np.full((len(rows), longest), pad_id if spec.name == "input_ids" else 0, dtype=np.int64)
        for index, row in enumerate(rows):
            tensor[index, : len(row)] = 1 if spec.name == "attention_mask" else getattr(row, spec.name)
        feed[spec.name] = tensor
    return feed
