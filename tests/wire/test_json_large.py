"""Large JSON texts: values and errors as the standard library's, other threads go on meanwhile, and a bound."""

import json
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from nlpdeploy.bundle.errors import EngineFailed, InvalidInput, TooLarge
from nlpdeploy.wire.json_large import LARGE, MOST_STEPS, MOST_VALUES, parse_large
from nlpdeploy.wire.json_text import dump_json, parse_json


def refuse(word):
    raise ValueError(word)


def outcome(parse, text):
    """The value with the types of its numbers, or the error with its place."""
    try:
        return repr(parse(text))
    except json.JSONDecodeError as error:
        # From Python 3.13 on the standard library names a comma too many at the comma.
        return (error.msg, error.pos) if sys.version_info < (3, 13) else type(error)
    except (ValueError, RecursionError) as error:
        return type(error)


def theirs(text):
    return outcome(lambda whole: json.loads(whole, parse_constant=refuse), text)


def ours(text):
    return outcome(lambda whole: parse_large(whole, refuse), text)


SCALARS = some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text(max_size=90)
VALUES = some.recursive(
    SCALARS, lambda inner: some.lists(inner, max_size=40) | some.dictionaries(some.text(max_size=5), inner, max_size=5)
)


@given(VALUES, some.booleans(), some.sampled_from([None, 0, 3]))
@settings(max_examples=150, deadline=None)
def test_a_value_comes_back_as_the_standard_library_reads_it(value, ascii_only, indent):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert ours(text) == theirs(text)


@given(VALUES, some.data())
@settings(max_examples=250, deadline=None)
def test_a_damaged_text_is_refused_at_the_same_place(value, data):
    text = json.dumps(value)
    start = data.draw(some.integers(0, len(text)))
    piece = data.draw(
        some.sampled_from([*'[]{}",:0-.eE\\ \n\t\x00\u00a0\u0663', "NaN", "Infinity", "01", "1.", "tru", ",,"])
    )
    damaged = text[:start] + piece + text[data.draw(some.integers(start, min(len(text), start + 3))) :]
    assert ours(damaged) == theirs(damaged)


WRONG = r"""[ [, [1, [1,] [1;2] [1]] [NaN,1] [-Infinity, [1\u00a0,2] [\u0663,1] [1\u0663] [1\u0663,1] 1\u0663
    [01,2] [1.,2] [.5,1]
    [1e999,2] {"a":1,} {"a":\u0663} {"a"} {1:2} "\ud800 tru [tru,1] [-,1] -"""
PIECES = (*'[]{}",:0-.eE\\ \n\t\x00\u00a0\u0663', "NaN", "Infinity", "01", "1.", "tru", ",,")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        '["\n",1]',
        "[" + "9" * 5000 + ",1]",
        "[" * 100_000,
        "[1," * 100_000,
        *(word.replace("\\u00a0", "\u00a0").replace("\\u0663", "\u0663") for word in WRONG.split()),
    ],
)
def test_a_wrong_text_is_refused_alike(text):
    assert ours(text) == theirs(text)


def test_long_lists_are_whole_over_the_stretches_they_are_read_in():
    for count in (1023, 1024, 1025, 5000):
        numbers = list(range(count))
        assert parse_large(json.dumps(numbers), refuse) == numbers
        nested = [numbers[:7], "a" * 200, {"b": numbers}, [[]], numbers, '人\\"', None]
        assert parse_large(json.dumps(nested, indent=1), refuse) == nested


class Ticker(threading.Thread):
    """Counts how often it gets its turn."""

    def __init__(self):
        super().__init__()
        self.turns, self.over = 0, threading.Event()

    def run(self):
        while not self.over.wait(0):
            self.turns += 1


@pytest.mark.parametrize(
    "content",
    [
        b'{"text": [' + b"1," * 2_000_000 + b"1]}",
        b'{"text": [' + b'"a", 1, 1, 1, 1, 1, 1, 1, 1, 1,' * 200_000 + b'"a"]}',
    ],
    ids=["numbers", "texts too"],
)
def test_another_thread_gets_its_turn_many_times_while_a_large_text_is_read(content):
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)  # the server's
    ticker = Ticker()
    ticker.start()
    try:
        first = ticker.turns
        parse_json(content)
        turns = ticker.turns - first
    finally:
        ticker.over.set()
        ticker.join()
        sys.setswitchinterval(before)
    # Read in one piece it would get one turn, when the reading begins; a turn is thousands of counts.
    assert turns > 20_000


@pytest.mark.parametrize(
    "content",
    [
        b"[" + b"1," * (MOST_VALUES + 1) + b"1]",
        b"[" + b"[1]," * (MOST_STEPS // 2 + 1) + b"1]",
        b"[" + b'"a",' * (MOST_STEPS + 1) + b"1]",
        b"{" + b",".join(b'"%d":{}' % number for number in range(MOST_STEPS + 1)) + b"}",
    ],
    ids=["numbers", "lists", "texts", "members"],
)
def test_more_values_than_any_request_has_are_too_large(content):
    with pytest.raises(TooLarge):
        parse_json(content)


def test_half_a_surrogate_pair_is_found_in_a_large_text_wherever_it_stands():
    for place in (10, 2**20 - 4, 2**20, 2**20 + 3):
        padding = b"a" * place
        for half in (b"\\ud800", b"\\udfff"):
            content = b'{"' + padding + half + b'": "' + b"b" * 2**20 + b'"}'
            with pytest.raises(InvalidInput, match="surrogate"):
                parse_json(content)
        whole = b'{"a": "' + padding + b"\\ud83d\\ude00" + b"b" * 2**20 + b'"}'
        assert "😀" in parse_json(whole)["a"]
    assert len(whole) > LARGE


@given(VALUES)
@settings(max_examples=100, deadline=None)
def test_a_large_answer_is_the_same_text_as_a_small_one(value):
    try:
        small = dump_json(value)
    except EngineFailed as error:
        with pytest.raises(EngineFailed, match=str(error)):
            dump_json(value, large=True)
    else:
        assert dump_json(value, large=True) == small


def test_a_number_that_is_not_finite_never_becomes_json_in_a_large_answer():
    with pytest.raises(EngineFailed, match="finite"):
        dump_json([1.0, float("nan")], large=True)
