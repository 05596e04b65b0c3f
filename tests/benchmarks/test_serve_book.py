"""Samples, and what is judged from them."""

import json

import pytest

from benchmarks.serve.book import Book
from benchmarks.serve.wanted import Wanted, judge


def book(**ways: list[float]) -> Book:
    made = Book()
    for way, values in ways.items():
        for value in values:
            made.add("1 client", way, p50_ms=value)
    return made


def wanted(**changes) -> Wanted:
    plain = {"what": "p50", "way": "ours", "part": "1 client", "measure": "p50_ms", "limit": 0.65, "least": False}
    return Wanted(**{**plain, **changes})


def test_the_ratio_is_taken_round_by_round_against_the_best_of_the_column():
    found = judge(book(ours=[2.0, 4.0, 3.0], slow=[20.0] * 3, fast=[4.0, 8.0, 5.0]), wanted(against=("slow", "fast")))
    assert found.rival == "fast"
    assert found.value.median == 0.5
    assert (found.value.min, found.value.max) == (0.5, 0.6)
    assert found.met
    assert found.line() == "p50: 0.5 [0.5, 0.6] x of fast (wanted <= 0.65): met"


def test_where_more_is_better_the_best_rival_is_the_one_with_most():
    found = judge(book(ours=[8.0], slow=[2.0], fast=[5.0]), wanted(against=("slow", "fast"), least=True, limit=2.3))
    assert found.rival == "fast"
    assert found.met is False
    assert found.line().endswith("(wanted >= 2.3): NOT met")


def test_a_rival_that_did_not_run_is_no_success():
    found = judge(book(ours=[2.0]), wanted(against=("gone",)))
    assert found.met is None
    assert "nothing to compare it with" in found.line()


def test_ours_not_measured_is_no_success():
    found = judge(book(fast=[2.0]), wanted(against=("fast",)))
    assert found.met is None
    assert "not measured" in found.line()


def test_a_rival_that_never_kept_the_target_gives_no_ratio():
    found = judge(book(ours=[2.0], fast=[0.0]), wanted(against=("fast",), least=True))
    assert found.value is None


def test_a_plain_limit_is_compared_with_nothing():
    found = judge(book(ours=[2.9, 3.5, 2.8]), wanted(limit=3.0))
    assert found.met
    assert found.line() == "p50: 2.9 [2.8, 3.5] (wanted <= 3): met"


def test_a_difference_is_taken_round_by_round():
    found = judge(book(ours=[2.0, 3.0], bare=[1.5, 2.75]), wanted(against=("bare",), minus=True, must=False, limit=0.6))
    assert found.value.median == 0.25
    assert found.line() == "p50: 0.25 [0.25, 0.5] over bare (goal <= 0.6): met"


def test_a_way_that_broke_is_compared_in_the_rounds_it_has():
    found = judge(book(ours=[2.0, 2.0, 2.0], fast=[4.0]), wanted(against=("fast",)))
    assert found.value.count == 1


def test_measures_that_are_none_are_not_noted_and_the_rest_goes_into_json():
    made = Book()
    made.add("16 clients", "ours", rate=10, pss_mb=None)
    plain = json.loads(json.dumps(made.plain()))
    assert plain["16 clients"]["rate"]["ours"]["samples"] == [10.0]
    assert "pss_mb" not in plain["16 clients"]
    assert made.best("16 clients", "pss_mb", ["ours"], most=False) is None


@pytest.mark.parametrize(("most", "best"), [(True, "b"), (False, "a")])
def test_the_best_is_told_by_the_median(most, best):
    assert book(a=[1.0, 9.0, 1.0], b=[2.0, 2.0, 2.0]).best("1 client", "p50_ms", ["a", "b", "c"], most=most) == best
