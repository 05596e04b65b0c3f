import math

import numpy as np
import pytest

from nlpdeploy.loadtest.steady import in_flight, steady_window, thirds
from support.loadruns import queue_latency

DUE = np.arange(2000) / 100.0
SECONDS = 20.0


def found(latency, due=DUE, seconds=SECONDS):
    return steady_window(due, latency, due + latency, seconds)


def test_a_steady_run_is_used_whole():
    part = found(0.005 + 0.001 * np.random.default_rng(1).random(len(DUE)))
    assert part.stable
    assert part.start_s == 0.0


@pytest.mark.parametrize("slow_until", [0.8, 2.9])
def test_a_slow_beginning_is_cut_off(slow_until):
    part = found(np.where(slow_until > DUE, 0.08, 0.005))
    assert part.stable
    assert slow_until <= part.start_s <= slow_until + 1.0


def test_a_beginning_longer_than_a_fifth_is_no_warm_up():
    part = found(np.where(DUE < 8.0, 0.08, 0.005))
    assert not part.stable
    assert part.start_s == 0.0


def test_a_stall_in_the_middle_is_not_excused():
    part = found(np.where((DUE >= 8.0) & (DUE < 12.0), 12.0 - DUE, 0.0) + 0.005)
    assert not part.stable
    assert part.start_s == 0.0


def test_a_queue_that_grows_is_named():
    part = found(queue_latency(DUE, np.full(len(DUE), 0.011)))
    assert part.growing
    assert part.rise == pytest.approx(2000 * (1.0 - 1.0 / 1.1), rel=0.1)
    assert not part.stable


def test_a_stationary_queue_is_seldom_taken_for_a_growing_one():
    random, growing = np.random.default_rng(4), 0
    for _ in range(100):
        due = np.cumsum(random.exponential(1.0 / 70.0, 2400))
        latency = queue_latency(due, random.exponential(0.01, 2400))
        kept = due >= due[400]
        due, latency = due[kept] - due[400], latency[kept]
        growing += steady_window(due, latency, due + latency, float(due[-1])).growing
    assert growing <= 5


def test_requests_without_an_end_stay_in_flight():
    due = np.array([0.0, 1.0, 2.0])
    ended = np.array([0.5, np.nan, 2.5])
    assert in_flight(due, ended, np.array([0.25, 0.75, 1.5, 2.25, 9.0])).tolist() == [1, 0, 1, 2, 1]


def test_failures_do_not_hide_or_make_a_trend():
    latency = np.full(len(DUE), 0.005)
    latency[::50] = math.inf
    ended = np.where(np.isfinite(latency), DUE + latency, DUE + 0.005)
    part = steady_window(DUE, latency, ended, SECONDS)
    assert part.stable
    assert part.windows_s == pytest.approx((0.005, 0.005, 0.005))


def test_a_run_without_answers_or_with_an_empty_third_is_not_steady():
    assert not found(np.full(len(DUE), math.inf)).agreeing
    due = np.array([0.1, 0.2, 19.0])
    part = found(np.full(3, 0.005), due)
    assert math.isnan(part.windows_s[1])
    assert not part.stable


def test_thirds_share_out_the_part_from_the_start_on():
    parts = thirds(DUE, DUE, 5.0, SECONDS)
    assert [len(part) for part in parts] == [500, 500, 500]
    assert parts[0][0] == 5.0
