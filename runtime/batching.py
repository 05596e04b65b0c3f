"""Which rows go together, and how they are laid out. Pure functions over rows and specs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..bundle.errors import EngineFailed
from ..bundle.evidence import LatencyCurve
from ..bundle.specs import Layout, TensorSpec
from .text import Row

_BUDGETS = {Layout.PADDED: 4096, Layout.PACKED: 256}
PACK_MULTIPLE = 16
"""Lengths that a packed row may have: few shapes, so that a runtime need not prepare for new ones all the time."""
NO_TEXT = -1
"""Segment of the tokens that fill a packed row up: they see each other and no text."""

_PADDED_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_PACKED_INPUTS = ("input_ids", "position_ids", "segment_ids", "first_tokens", "token_type_ids")


def token_budget(layout: Layout) -> int:
    """Elements of a batch that are worth one call.

    Padded: what bounds the memory of a call; rows are its real limit. Packed: from about 256 tokens on texts no longer
    get cheaper by being together, and beyond 384 the square of attention shows: per text 0.87 ms of one core at 128
    tokens, 0.79 at 256, 0.85 at 384, 0.95 at 512 (MiniLM-L6 in bf16 on AVX-512).
    """
    return _BUDGETS[layout]


def call_size(lengths: Sequence[int], layout: Layout) -> tuple[int, int]:
    """Elements and rows of one engine call, in the units of a latency curve.

    Args:
        lengths: tokens of each row of the call, at least one row.
        layout: how the engine wants its rows.

    Returns:
        Padded: (rows x longest, rows). Packed: (all tokens, rounded up to ``PACK_MULTIPLE``; 1).
    """
    if layout is Layout.PACKED:
        return -(-sum(lengths) // PACK_MULTIPLE) * PACK_MULTIPLE, 1
    return len(lengths) * max(lengths), len(lengths)


def plan(
    lengths: Sequence[int],
    *,
    max_tokens: int,
    max_rows: int,
    layout: Layout = Layout.PADDED,
    curve: LatencyCurve | None = None,
) -> list[list[int]]:
    """Split rows into batches under a token budget.

    For padded calls rows are sorted by length, so that padding stays small; a packed call has none, and rows keep their
    order. A batch is cut where its elements (see :func:`call_size`) would pass ``max_tokens`` or its rows ``max_rows``;
    with a curve also where the calls together take less time so, since padding costs more than one call more. A single
    row longer than the budget gets a batch of its own.

    Args:
        lengths: tokens of each row.
        max_tokens: budget of a batch in elements.
        max_rows: most rows of a batch.
        layout: how the engine wants its rows.
        curve: forecast of a padded call's time.

    Returns:
        Batches of indices into ``lengths``; each index exactly once.
    """
    if layout is Layout.PACKED:
        return _plan_packed(lengths, max_tokens, max_rows)
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    if curve is not None:
        return _plan_cheapest([(index, lengths[index]) for index in order], max_tokens, max_rows, curve)
    batches: list[list[int]] = []
    for index in order:
        longest = lengths[index]  # sorted ascending: the newest is the longest
        if batches and len(batches[-1]) < max_rows and (len(batches[-1]) + 1) * longest <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _plan_cheapest(
    rows: Sequence[tuple[int, int]], max_tokens: int, max_rows: int, curve: LatencyCurve
) -> list[list[int]]:
    """The cuts of the sorted (index, length) pairs whose calls take the least time together, by dynamic programming.

    What a call costs besides its tokens counts twice: it was measured call upon call, when the weights were still in
    the processor's caches. So a cut is made where it clearly pays.
    """
    seconds, begins = [0.0], [0]
    for end in range(1, len(rows) + 1):
        longest = rows[end - 1][1]
        best, begin = math.inf, end - 1
        for start in range(end - 1, max(-1, end - 1 - max_rows), -1):
            count = end - start
            if count > 1 and count * longest > max_tokens:
                break
            together = seconds[start] + curve.base + curve.seconds(count * longest, count)
            if together <= best:
                best, begin = together, start
        seconds.append(best)
        begins.append(begin)
    batches, end = [], len(rows)
    while end:
        batches.append([index for index, _ in rows[begins[end] : end]])
        end = begins[end]
    return batches[::-1]


def _plan_packed(lengths: Sequence[int], max_tokens: int, max_rows: int) -> list[list[int]]:
    batches: list[list[int]] = []
    held = 0
    for index, length in enumerate(lengths):
        if batches and len(batches[-1]) < max_rows and call_size([held, length], Layout.PACKED)[0] <= max_tokens:
            batches[-1].append(index)
            held += length
        else:
            batches.append([index])
            held = length
    return batches


def lay_out(
    rows: Sequence[Row], layout: Layout, inputs: Sequence[TensorSpec], pad_id: int
) -> dict[str, npt.NDArray[np.int64]]:
    """The feed for an engine: what its layout and its graph's own inputs ask for, INT64.

    Padded: ``input_ids``, ``attention_mask``, ``token_type_ids`` [rows, longest]. Packed, with T the tokens of all rows
    rounded up to ``PACK_MULTIPLE``: ``input_ids``, ``position_ids`` (from 0 in each text), ``segment_ids`` (the text's
    number, ``NO_TEXT`` on pads), ``token_type_ids`` [1, T], and ``first_tokens`` [rows], where each text begins.

    Raises:
        EngineFailed: the graph has an input that rows don't have.
    """
    known = _PACKED_INPUTS if layout is Layout.PACKED else _PADDED_INPUTS
    for spec in inputs:
        if spec.name not in known:
            raise EngineFailed("input of the graph", found=spec.name, wanted=", ".join(known))
    return (_pack if layout is Layout.PACKED else _pad)(rows, inputs, pad_id)


def _pack(rows: Sequence[Row], inputs: Sequence[TensorSpec], pad_id: int) -> dict[str, npt.NDArray[np.int64]]:
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    firsts = np.cumsum(lengths) - lengths
    used = int(lengths.sum())
    size, _ = call_size(lengths.tolist(), Layout.PACKED)
    feed: dict[str, npt.NDArray[np.int64]] = {}
    for spec in inputs:
        if spec.name == "first_tokens":
            feed[spec.name] = firsts
            continue
        fill = {"input_ids": pad_id, "segment_ids": NO_TEXT}.get(spec.name, 0)
        tensor = np.full((1, size), fill, dtype=np.int64)
        if spec.name == "segment_ids":
            tensor[0, :used] = np.repeat(np.arange(len(rows)), lengths)
        elif spec.name == "position_ids":
            tensor[0, :used] = np.arange(used) - np.repeat(firsts, lengths)
        else:
            np.concatenate([getattr(row, spec.name) for row in rows], out=tensor[0, :used])
        feed[spec.name] = tensor
    return feed


def _pad(rows: Sequence[Row], inputs: Sequence[TensorSpec], pad_id: int) -> dict[str, npt.NDArray[np.int64]]:
    longest = max(len(row) for row in rows)
    feed = {}
    for spec in inputs:
        tensor = np.full((len(rows), longest), pad_id if spec.name == "input_ids" else 0, dtype=np.int64)
        for index, row in enumerate(rows):
            tensor[index, : len(row)] = 1 if spec.name == "attention_mask" else getattr(row, spec.name)
        feed[spec.name] = tensor
    return feed
