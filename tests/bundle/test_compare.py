"""The one quantile and the one deviation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nlpdeploy.bundle.compare import deviation, quantile
from nlpdeploy.bundle.errors import InvalidInput

samples_ = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=200)
shares = st.floats(0.001, 1.0)
logits = arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 5)), elements=st.floats(-100, 100, width=32))


def test_the_95th_of_94_fast_and_6_slow_is_slow():
    samples = [10.0] * 94 + [45.4] * 6
    assert quantile(samples, 0.95) == 45.4
    assert quantile(samples, 0.94) == 10.0
    assert quantile(samples, 0.5) == 10.0


@pytest.mark.parametrize(
    ("n", "p", "rank"), [(20, 0.95, 19), (100, 0.95, 95), (1000, 0.999, 999), (7, 0.5, 4), (1, 0.99, 1)]
)
def test_the_rank_is_the_nearest_one_whatever_rounding_does(n, p, rank):
    assert quantile(list(range(1, n + 1)), p) == rank


@given(samples_, shares)
def test_a_quantile_is_the_least_sample_with_that_share_at_or_below_it(samples, p):
    found = quantile(samples, p)
    assert found in samples
    at_or_below = sum(sample <= found for sample in samples)
    below = sum(sample < found for sample in samples)
    assert at_or_below >= p * len(samples) - 1e-6
    assert below < p * len(samples) + 1e-6


@given(samples_, shares, shares, st.randoms())
def test_quantiles_rise_with_the_share_and_ignore_the_order(samples, p, q, random):
    shuffled = list(samples)
    random.shuffle(shuffled)
    assert quantile(samples, p) == quantile(shuffled, p)
    assert quantile(samples, min(p, q)) <= quantile(samples, max(p, q)) <= quantile(samples, 1.0) == max(samples)


@pytest.mark.parametrize("samples", [[], [1.0, math.nan]])
def test_no_samples_and_nan_have_no_quantile(samples):
    with pytest.raises(InvalidInput):
        quantile(samples, 0.5)


@pytest.mark.parametrize("p", [0.0, -0.1, 1.1, math.nan])
def test_a_share_out_of_range_is_refused(p):
    with pytest.raises(InvalidInput):
        quantile([1.0], p)


@given(logits)
def test_nothing_deviates_from_itself(values):
    found = deviation(values, values)
    assert found.max_abs == found.mean_abs == 0.0
    assert found.cosine == pytest.approx(1.0)
    assert found.within(0.0)


@given(logits, st.integers(0, 10**6), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_one_value_that_is_not_finite_fails_every_tolerance(values, place, bad):
    spoiled = values.copy()
    spoiled.flat[place % spoiled.size] = bad
    found = deviation(spoiled, values)
    assert found.nonfinite_rows == 1
    assert not found.within(math.inf)
    assert f"1 of {len(values)} rows" in found.reason(math.inf)
    assert found.cosine == -1.0


@given(logits, st.floats(0.01, 10), st.integers(0, 10**6))
def test_the_largest_error_is_found_wherever_it_is(values, size, place):
    moved = values.astype(np.float64)
    moved.flat[place % moved.size] += size
    found = deviation(moved, values)
    assert found.max_abs == pytest.approx(size)
    assert found.mean_abs == pytest.approx(size / values.size)
    assert (found.reason(size / 2) is None) == found.within(size / 2) is False


def test_rows_of_zeros_and_repeated_rows_are_counted():
    reference = np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.25]])
    assert deviation(np.zeros((3, 2)), reference).zero_rows == 3
    constant = deviation(np.tile([[1.0, 2.0]], (3, 1)), reference)
    assert constant.identical_rows == 2
    assert "repeat the row before" in constant.reason(100.0)


def test_equal_texts_may_have_equal_answers():
    reference = np.array([[1.0, 2.0], [1.0, 2.0]])
    assert deviation(reference + 0.001, reference).within(0.01)


def test_shapes_that_differ_are_refused():
    with pytest.raises(InvalidInput, match=r"\[2, 3\]"):
        deviation(np.zeros((2, 3)), np.zeros((2, 2)))


def test_no_rows_pass_nothing():
    found = deviation(np.zeros((0, 3)), np.zeros((0, 3)))
    assert not found.within(1.0)
    assert found.reason(1.0) == "no rows compared"
