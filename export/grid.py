"""The parity grid: batches of rows that together touch every corner of batch size x length x padding.

Rows of a wanted length are cut out of real tokenised text that was joined until it was long enough; ids are never drawn
at random, since a model's behaviour off its training text proves nothing about its behaviour on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TypeVar

import numpy as np

from ..bundle.specs import ModelSpec
from ..runtime.text import Row, TextEncoder

T = TypeVar("T")

LENGTHS = (1, 3, 8, 16, 32, 64, 128)
"""Lengths of the grid beside the usable maximum: 1 is a lone real token, 3 a one-word text in most vocabularies."""

COMPANY = 16
"""Rows of the largest mixed batch."""


@dataclass(frozen=True)
class Case:
    """Rows that are run as one batch, padded together.

    Attributes:
        name: what is special about it, e.g. ``batch 4, length 64``.
        rows: in order.
        beyond_task: no text that the model's callers send looks so; it is dropped where the reference can't run it.
    """

    name: str
    rows: tuple[Row, ...]
    beyond_task: bool = False


def parity_grid(
    encoder: TextEncoder, texts: Sequence[str], pairs: Sequence[str] | None, model: ModelSpec
) -> tuple[Case, ...]:
    """Batches of one row and of several, of equal lengths and mixed, short among long, up to the usable maximum.

    Args:
        encoder: the model's tokenizer.
        texts: real texts, at least one.
        pairs: their second texts where the model reads pairs.
        model: its limits.
    """
    lengths = [length for length in LENGTHS if length < model.max_length] + [model.max_length]
    long = _long_rows(encoder, texts, pairs)
    sized = {length: [cut(row, length) for row in long] for length in lengths}
    cases = [Case(f"batch 1, length {length}", (sized[length][0],)) for length in lengths]
    cases.append(Case("batch 4, length 16", tuple(cut(row, min(16, model.max_length)) for row in long)))
    middle = min(64, model.max_length)
    cases.append(Case(f"batch 4, length {middle}", tuple(cut(row, middle) for row in long)))
    # Distinct lengths, the longest first, so that every row but the first is padded.
    mixed = [sized[length][i % len(long)] for i, length in enumerate(reversed(lengths[:-1]))]
    if mixed:
        cases.append(Case(f"batch {len(mixed)}, lengths {lengths[0]} to {len(mixed[0])}, padded", tuple(mixed)))
        cases.append(Case("short beside the usable maximum", (sized[lengths[-1]][0], mixed[len(mixed) // 2])))
    cases.append(_short_among_long(encoder, texts, pairs, long, model))
    cases.append(_pair_case(encoder, texts, pairs, model))
    company = evenly(texts, COMPANY)
    company_pairs = evenly(pairs, COMPANY) if pairs is not None else None
    cases.append(Case(f"batch {len(company)}, real texts", tuple(encoder.encode(company, company_pairs))))
    return tuple(cases)


def cut(row: Row, length: int) -> Row:
    """The first ``length - 1`` tokens and the closing one; rows that are short enough stay as they are."""
    if length >= len(row):
        return row
    if length == 1:
        return Row(row.input_ids[:1], row.token_type_ids[:1])
    ids = np.concatenate([row.input_ids[: length - 1], row.input_ids[-1:]])
    types = np.concatenate([row.token_type_ids[: length - 1], row.token_type_ids[-1:]])
    return Row(ids, types)


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` items, spread evenly over the sequence."""
    return [items[i * len(items) // min(count, len(items))] for i in range(min(count, len(items)))]


def _long_rows(encoder: TextEncoder, texts: Sequence[str], pairs: Sequence[str] | None) -> list[Row]:
    """Four rows of the usable maximum, each joined from another stretch of the texts."""
    rows = []
    for start in range(4):
        joined = _join(encoder, texts, start * len(texts) // 4)
        seconds = [_join(encoder, pairs, start * len(pairs) // 4)] if pairs is not None else None
        rows += encoder.encode([joined], seconds)
    return rows


def _join(encoder: TextEncoder, texts: Sequence[str], start: int) -> str:
    """Texts from ``start`` on, over and over, until they fill the usable maximum."""
    count = 8
    while True:
        joined = " ".join(islice(cycle(texts), start, start + count))
        # An unusual vocabulary may make no tokens of a text at all; a megabyte of it is enough to stop.
        if len(encoder.encode([joined])[0]) >= encoder.max_length or len(joined) > 1_000_000:
            return joined
        count *= 2


def _short_among_long(
    encoder: TextEncoder, texts: Sequence[str], pairs: Sequence[str] | None, long: list[Row], model: ModelSpec
) -> Case:
    rows = encoder.encode(evenly(texts, 256), evenly(pairs, 256) if pairs is not None else None)
    shortest = min(rows, key=len)
    length = min(128, model.max_length)
    others = [cut(row, length - i % max(1, length // 4)) for i, row in enumerate(islice(cycle(long), 7))]
    return Case(f"batch 8, {len(shortest)} tokens among {length}", (shortest, *others))


def _pair_case(encoder: TextEncoder, texts: Sequence[str], pairs: Sequence[str] | None, model: ModelSpec) -> Case:
    """Pairs of unlike lengths, so that segment numbers change at another place in each row and padding follows."""
    firsts = evenly(texts, 4)
    seconds = evenly(pairs if pairs is not None else texts, 8)[::-1]
    rows = encoder.encode(firsts, [seconds[i % len(seconds)] for i in range(len(firsts))])
    rows[0] = cut(rows[0], max(2, len(rows[0]) // 2))
    return Case(f"batch {len(rows)}, pairs, padded", tuple(rows), beyond_task=not model.pair)
