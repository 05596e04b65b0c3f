"""A job's texts -> its rows, part by part: texts without end keep an encoder thread no longer than they are wanted."""

from __future__ import annotations

from collections.abc import Callable

from ..runtime.predictor import Predictor
from ..runtime.text import Row
from .job import Job

TEXTS_AT_ONCE = 64
"""Texts that are tokenised in one go."""


def tokenised(job: Job, predictor: Predictor, check_tokens: Callable[[int], None]) -> list[Row]:
    """The rows of a job by text; fewer of one that was withdrawn meanwhile, which waits for none of them.

    Args:
        job: what is asked.
        predictor: its model.
        check_tokens: told the number of tokens after each part; raises where they are too many to go on.

    Raises:
        InvalidInput: a text can't be encoded.
    """
    texts, pairs = job.question.texts, job.question.pairs
    rows: list[Row] = []
    tokens = 0
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        if job.withdrawn:
            break
        part = slice(first, first + TEXTS_AT_ONCE)
        rows += predictor.encode(texts[part], None if pairs is None else pairs[part])
        tokens += sum(map(len, rows[first:]))
        check_tokens(tokens)
    return rows
