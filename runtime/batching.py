"""Which rows go together, and how they are laid out. Pure functions over rows and specs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..bundle.errors import EngineFailed, Unsupported
from ..bundle.specs import Layout, TensorSpec
from .text import Row


def plan(lengths: Sequence[int], *, max_tokens: int, max_rows: int) -> list[list[int]]:
    """Split rows into batches of like length under a token budget.

    Rows are sorted by length, so that padding stays small, and cut where the padded tensor (rows x longest) would pass
    ``max_tokens`` or the batch ``max_rows``. A single row longer than the budget gets a batch of its own.

    Args:
        lengths: tokens of each row.
        max_tokens: budget of a batch in padded elements.
        max_rows: most rows of a batch.

    Returns:
        Batches of indices into ``lengths``; each index exactly once.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        longest = lengths[index]  # sorted ascending: the newest is the longest
        if batches and len(batches[-1]) < max_rows and (len(batches[-1]) + 1) * longest <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
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
