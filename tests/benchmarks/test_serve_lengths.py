"""Texts of a wanted number of tokens."""

import numpy as np
import pytest

from benchmarks.serve.lengths import mixed_lengths, text_of

TEXTS = ["a bb ccc", "dd e"]


def count(text: str) -> int:
    """A token a letter, and two special ones."""
    return 2 + len(text.replace(" ", ""))


@pytest.mark.parametrize(("length", "text"), [(5, "a bb"), (7, "a bb"), (8, "a bb ccc"), (11, "a bb ccc dd e")])
def test_the_longest_text_within_the_length(length, text):
    assert text_of(length, TEXTS, count) == text


def test_words_come_again_where_there_are_too_few():
    assert count(text_of(100, TEXTS, count)) in range(98, 101)


def test_one_word_where_none_is_that_short():
    assert text_of(1, TEXTS, count) == "a"


def test_texts_that_skip_differ():
    assert text_of(6, TEXTS, count, skip=1) == "bb"
    assert text_of(7, TEXTS, count, skip=1) == "bb ccc"


def test_lengths_have_both_ends_and_are_as_many_short_as_long_ones():
    lengths = mixed_lengths(101, 4, 512, np.random.default_rng(0))
    assert (min(lengths), max(lengths), len(lengths)) == (4, 512, 101)
    assert np.median(lengths) == pytest.approx(np.sqrt(4 * 512), abs=2)
    assert lengths != sorted(lengths)
