"""A slope is told from noise, a rise from a slope, and the interval keeps its promise."""

import numpy as np
import pytest

from benchmarks.soak_checks import LEAST_OF_A_WINDOW, memory_of, waits_of
from benchmarks.trend import CONFIDENCE, trend


def test_a_line_is_its_own_trend():
    found = trend([100.0 + k for k in range(21)])
    assert found.level == 110
    assert found.rise == found.low == found.high == pytest.approx(20 / 110)
    assert found.rises(0.1)
    assert not found.rises(0.2)


def test_a_fall_is_no_rise():
    assert not trend([100.0 - k for k in range(20)]).rises(0.0)


def test_a_few_odd_windows_are_no_slope():
    windows = [100.0] * 20
    windows[17:] = [500.0, 300.0, 900.0]
    assert not trend(windows).rises(0.0)


def test_noise_is_seldom_called_a_rise_and_a_rise_in_noise_is_found():
    rng = np.random.default_rng(1)
    noise = [trend(list(100 + 5 * rng.standard_normal(20))) for _ in range(2000)]
    assert sum(found.low > 0 for found in noise) / len(noise) <= (1 - CONFIDENCE) / 2 + 0.005
    rising = [trend(list(100 + np.linspace(0, 20, 20) + 5 * rng.standard_normal(20))) for _ in range(200)]
    assert sum(found.rises(0.10) for found in rising) >= 190


@pytest.mark.parametrize("windows", [[1.0] * 7, [1.0] * 19 + [0.0]])
def test_too_few_or_impossible_windows_are_refused(windows):
    with pytest.raises(ValueError, match="windows"):
        trend(windows)


def test_what_memory_takes_in_the_first_quarter_is_no_slope_and_a_leak_is_one():
    level = [200.0 + min(k, 100) for k in range(400)]
    assert not memory_of(level).trend.rises(0.0)
    leak = [300.0 + 0.1 * k for k in range(400)]
    assert memory_of(leak).trend.rises(0.01)
    assert memory_of(leak).growth == pytest.approx(0.1, abs=0.03)


def test_a_99th_percentile_that_rises_is_told_and_too_few_answers_are_not_judged():
    rng = np.random.default_rng(2)
    due = np.sort(rng.uniform(0, 600, 8000))
    waits = rng.exponential(0.010, len(due))
    assert not waits_of(list(zip(due, waits, strict=True)), 600).trend.rises(0.10)
    assert waits_of(list(zip(due, waits * (1 + due / 300), strict=True)), 600).trend.rises(0.10)
    few = list(zip(due[-LEAST_OF_A_WINDOW * 7 :], waits, strict=False))
    assert waits_of(few, 600).trend is None
    assert waits_of([], 600).count == 0
