"""Texts of a wanted number of tokens, made of the words of real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, cycle, islice

import numpy as np

Count = Callable[[str], int]
"""Tokens of a text, special tokens included."""


def text_of(length: int, texts: Sequence[str], count: Count, *, skip: int = 0) -> str:
    """The longest run of words that has at most ``length`` tokens; one word where none is that short.

    Args:
        length: tokens, special tokens included.
        texts: where the words come from, again and again.
        count: tells the tokens of a text.
        skip: words left out at the beginning, so that texts differ.
    """
    words = list(islice(chain.from_iterable(text.split() for text in cycle(texts)), skip, skip + max(length, 1)))
    # Tokens grow with words: halve the interval.
    low, high = 1, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        if count(" ".join(words[:middle])) <= length:
            low = middle
        else:
            high = middle - 1
    return " ".join(words[:low])


def mixed_lengths(number: int, least: int, most: int, rng: np.random.Generator) -> list[int]:
    """Lengths spread evenly on a logarithmic scale, both ends among them, in an order drawn at random."""
    lengths = np.rint(np.geomspace(least, most, number)).astype(int)
    return [int(length) for length in rng.permutation(lengths)]
