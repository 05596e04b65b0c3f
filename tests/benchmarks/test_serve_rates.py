"""The search for the highest rate that keeps a target."""

import math

import pytest

from benchmarks.serve.rates import CLOSE, RateSearch, allowed_misses, trial_length
from nlpdeploy.bundle.compare import quantile


def search(limit: float, start: float, trials: int = 40) -> RateSearch:
    found = RateSearch(start, trials=trials)
    while not found.done:
        found.report(found.next_rate() <= limit)
    return found


@pytest.mark.parametrize("limit", [3.0, 18.0, 339.0, 1700.0])
@pytest.mark.parametrize("start", [2.0, 300.0, 5000.0])
def test_the_boundary_is_found_from_either_side(limit, start):
    found = search(limit, start)
    assert found.bracketed
    assert found.held <= limit < found.failed <= found.held * CLOSE


def test_a_server_that_never_keeps_the_target_has_no_rate():
    found = search(0.0, 100.0)
    assert found.held == 0.0
    assert found.done


def test_trials_are_bounded_and_what_held_so_far_counts():
    found = search(math.inf, 100.0, trials=3)
    assert found.left == 0
    assert found.held == pytest.approx(225.0)
    assert not found.bracketed


def test_a_start_near_the_boundary_saves_trials():
    near, far = RateSearch(330.0, trials=40), RateSearch(20.0, trials=40)
    for found in (near, far):
        while not found.done:
            found.report(found.next_rate() <= 339.0)
    assert near.left > far.left


@pytest.mark.parametrize(("planned", "allowed"), [(0, 0), (99, 0), (100, 1), (199, 1), (200, 2), (1500, 15)])
def test_so_many_misses_leave_the_quantile_within_the_limit(planned, allowed):
    assert allowed_misses(planned) == allowed
    if planned:
        values = [1.0] * (planned - allowed) + [100.0] * allowed
        assert quantile(values, 0.99) == 1.0
        assert quantile([*values[1:], 100.0], 0.99) == 100.0


@pytest.mark.parametrize(("rate", "seconds"), [(1000.0, 5.0), (40.0, 5.0), (20.0, 10.0), (1.0, 15.0)])
def test_a_trial_at_a_low_rate_is_longer_and_not_endless(rate, seconds):
    assert trial_length(rate, 5.0) == seconds
