import math

import numpy as np
import pytest

from nlpdeploy.bundle.errors import InvalidInput
from nlpdeploy.loadtest.contrast import contrast, contrast_runs


def test_the_ratio_is_the_baseline_over_the_candidate():
    found = contrast("p95", [(0.045, 0.120), (0.044, 0.118), (0.046, 0.123), (0.045, 0.119)])
    assert found.ratio == pytest.approx(120 / 45, rel=0.02)
    assert 1.0 < found.low < found.ratio < found.high
    assert found.finding == "faster"
    assert found.baseline_s / found.candidate_s == pytest.approx(found.ratio)


def test_sides_swapped_give_the_inverse():
    pairs = [(0.045, 0.120), (0.044, 0.118), (0.046, 0.123), (0.045, 0.119)]
    one, other = contrast("p95", pairs), contrast("p95", [(baseline, candidate) for candidate, baseline in pairs])
    assert other.finding == "slower"
    assert (other.ratio, other.low, other.high) == pytest.approx((1 / one.ratio, 1 / one.high, 1 / one.low))


def test_a_difference_within_the_noise_is_none():
    found = contrast("p95", [(1.0, 1.3), (1.0, 0.9), (1.0, 1.2), (1.0, 0.8)])
    assert found.low < 1.0 < found.high
    assert found.finding == "no difference shown"


def test_a_steady_drift_in_abba_order_cancels():
    # The machine slows by a tenth from block to block; the servers are alike.
    speed = 1.1 ** np.arange(16)
    pairs = []
    for at in range(0, 16, 4):
        a, b, b2, a2 = speed[at : at + 4]
        pairs += [(a, b), (a2, b2)]
    found = contrast("p95", pairs)
    assert found.ratio == pytest.approx(1.0)
    assert found.low == pytest.approx(1.0)
    assert found.finding == "no difference shown"


def test_the_interval_misses_the_truth_about_once_in_a_hundred():
    random, misses = np.random.default_rng(6), 0
    for _ in range(400):
        found = contrast("p95", np.exp(random.normal(0.0, 0.1, (20, 2))).tolist())
        misses += not found.low <= 1.0 <= found.high
    assert misses <= 12


def test_a_pair_without_a_quantile_is_not_comparable():
    found = contrast("p95", [(0.1, math.inf), (0.1, 0.2), (0.1, 0.2), (0.1, 0.2)])
    assert found.finding == "not comparable"
    assert "1 of 4 pairs" in found.reason
    assert found.ratio is found.candidate_s is None


@pytest.mark.parametrize("pairs", [[], [(1.0, 1.0)] * 2, [(1.0, 1.0)] * 5, [(0.0, 1.0)] * 4, [(math.nan, 1.0)] * 4])
def test_too_few_pairs_and_impossible_times_are_refused(pairs):
    with pytest.raises(InvalidInput, match="pairs"):
        contrast("p95", pairs)


def test_the_baseline_has_an_interval_of_its_own():
    found = contrast("p95", [(0.045, 0.120), (0.044, 0.118), (0.046, 0.123), (0.045, 0.119)])
    assert found.baseline_low < 0.120 < found.baseline_high


def test_two_runs_are_compared_by_their_parts():
    random = np.random.default_rng(2)
    one, other = random.gamma(4.0, 0.01, (2, 8000))
    alike, slower = contrast_runs("p95", 0.95, one, other), contrast_runs("p95", 0.95, 1.3 * one, other)
    assert alike.low < 1.0 < alike.high
    assert slower.finding == "slower"
    assert slower.low < 1 / 1.3 < slower.high
    assert contrast_runs("p95", 0.95, one[:5], other).finding == "not comparable"
    assert "no p95" in contrast_runs("p95", 0.95, np.where(one > 0.05, np.inf, one), other).reason


def test_runs_of_different_moments_that_are_alike_are_called_so():
    random, holds = np.random.default_rng(3), 0
    for _ in range(200):
        found = contrast_runs("p95", 0.95, *random.gamma(4.0, 0.01, (2, 2000)))
        holds += found.low <= 1.0 <= found.high
    assert holds >= 194
