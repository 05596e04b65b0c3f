"""A job's texts -> its rows, a part at a time, so that one request's many texts hold up no other request."""

from __future__ import annotations

from ..runtime.predictor import Predictor
from ..runtime.text import Row
from .job import Job, Question

TEXTS_AT_ONCE = 64
"""Texts that are tokenised in one go."""
SHORT_ROWS, SHORT_CHARACTERS = 4, 256
"""Of a request, all texts together: no more work than handing it to another thread and back."""


def is_short(question: Question) -> bool:
    """Whether a question is tokenised sooner where it is than by a thread that must be woken for it."""
    if len(question) > SHORT_ROWS:
        return False
    return sum(map(len, question.texts)) + sum(map(len, question.pairs or ())) <= SHORT_CHARACTERS


def next_rows(job: Job, done: int, predictor: Predictor) -> list[Row]:
    """The rows of the next part of a job by text.

    Args:
        job: what is asked.
        done: number of its texts that are tokenised already.
        predictor: its model.

    Returns:
        The rows of at most 64 texts.

    Raises:
        InvalidInput: a text can't be encoded.
    """
    texts, pairs = job.question.texts, job.question.pairs
    part = slice(done, done + TEXTS_AT_ONCE)
    return predictor.encode(texts[part], None if pairs is None else pairs[part])
