import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlpdeploy.bundle.errors import InvalidInput
from nlpdeploy.loadtest.binomial import binomial_cdf
from nlpdeploy.loadtest.certify import CONFIDENCE, Verdict, certify_failures, certify_mean, certify_share
from nlpdeploy.loadtest.clusters import Batches, cut, excess_inflation, inflation, lag_factor
from nlpdeploy.loadtest.student import student_cdf, student_quantile
from support.loadruns import queue_latency

LIMIT = 0.045


def spread(n, over, value=0.1):
    """``over`` slow requests, evenly among ``n`` quick ones."""
    latency = np.full(n, 0.005)
    latency[np.linspace(0, n - 1, over).astype(int)] = value
    return latency


@given(st.integers(0, 30), st.integers(1, 30), st.floats(0.001, 0.999))
def test_the_binomial_sum_is_the_textbook_one(t, n, q):
    exact = sum(math.comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(min(t, n) + 1))
    assert binomial_cdf(t, n, q) == pytest.approx(exact, rel=1e-9)


def test_the_binomial_sum_stands_large_runs():
    assert binomial_cdf(50_000, 1_000_000, 0.05) == pytest.approx(0.5, abs=0.01)
    assert binomial_cdf(0, 1_000_000, 0.05) == 0.0
    assert binomial_cdf(-1, 10, 0.5) == 0.0
    assert binomial_cdf(10, 10, 0.5) == 1.0


@pytest.mark.parametrize(
    ("allowed", "needed"),
    [(0.05, {0: 90, 1: 130, 10: 398, 100: 2504}), (0.01, {0: 459, 1: 662, 10: 2010, 100: 12571})],
)
def test_runs_as_long_as_early_stopping_asks_for(allowed, needed):
    for over, shortest in needed.items():
        assert binomial_cdf(over, shortest, allowed) <= 1.0 - CONFIDENCE < binomial_cdf(over, shortest - 1, allowed)


@pytest.mark.parametrize(("n", "over"), [(90, 0), (130, 1), (398, 10)])
def test_a_run_confirms_from_exactly_that_length_on(n, over):
    assert certify_share(spread(n, over), LIMIT, 0.95).verdict is Verdict.CONFIRMED
    assert certify_share(spread(n - 1, over), LIMIT, 0.95).verdict is Verdict.INCONCLUSIVE


@given(st.integers(1, 400), st.data())
def test_confirmed_and_refuted_never_meet_and_more_over_is_never_better(n, data):
    over = data.draw(st.integers(0, n - 1))
    order = [Verdict.CONFIRMED, Verdict.INCONCLUSIVE, Verdict.REFUTED]
    now, worse = (certify_share(spread(n, t), LIMIT, 0.95) for t in (over, over + 1))
    if now.inflation == worse.inflation == 1.0:
        assert order.index(now.verdict) <= order.index(worse.verdict)
    assert now.over == over
    if now.verdict is Verdict.CONFIRMED:
        assert over <= 0.05 * n
    if now.verdict is Verdict.REFUTED:
        assert over >= 0.05 * n


def test_failures_are_over_every_limit():
    assert certify_share(spread(1000, 100, math.inf), LIMIT, 0.95).verdict is Verdict.REFUTED


def test_six_of_a_hundred_is_too_near_to_five_to_say():
    found = certify_share(spread(100, 6), LIMIT, 0.95)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.chance == pytest.approx(0.384, abs=0.001)


def test_an_inconclusive_run_says_how_much_longer_would_decide():
    for n, over, then in ((200, 5, Verdict.CONFIRMED), (200, 14, Verdict.REFUTED)):
        found = certify_share(spread(n, over), LIMIT, 0.95)
        assert found.verdict is Verdict.INCONCLUSIVE
        longer = n + found.more
        assert certify_share(spread(longer, round(over * longer / n)), LIMIT, 0.95).verdict is then
    assert certify_share(spread(1000, 50), LIMIT, 0.95).more is None


def test_clusters_inflate_the_variance_and_scattered_marks_do_not():
    random = np.random.default_rng(1)
    scattered = np.where(random.random(20_000) < 0.05, 0.1, 0.005)
    assert inflation(cut(scattered, LIMIT), 0.05) < 2.0
    clustered = np.repeat(np.where(random.random(2_000) < 0.05, 0.1, 0.005), 10)
    assert 5.0 < inflation(cut(clustered, LIMIT), 0.05) < 25.0
    assert inflation(cut(np.full(1000, 0.005), LIMIT), 0.05) == 1.0
    assert inflation(cut(np.full(7, 0.1), LIMIT), 0.05) == 1.0


def test_batches_shorter_than_a_cluster_are_found_out_by_their_neighbours():
    random = np.random.default_rng(4)
    assert lag_factor(np.sin(np.linspace(0.0, 6.0, 20))) > 5.0
    assert np.mean([lag_factor(random.standard_normal(20)) for _ in range(400)]) < 1.5
    assert lag_factor(np.full(20, 0.5)) == 1.0


def test_many_runs_are_judged_at_once_as_each_is_alone():
    runs = np.random.default_rng(8).gamma(2.0, 0.01, (30, 4000))
    each = [cut(run, LIMIT) for run in runs]
    together = Batches(
        4000,
        200,
        *(
            np.array([getattr(one, name) for one in each])
            for name in ("over", "far", "over_share", "excess", "excess_variance")
        ),
    )
    assert np.array_equal(inflation(together, 0.05), [inflation(one, 0.05) for one in each])
    assert np.array_equal(excess_inflation(together), [excess_inflation(one) for one in each])


def test_clusters_over_a_quarter_of_the_limit_ask_for_a_longer_run_and_a_wide_margin_does_not():
    def bursts(value):
        latency = np.full(400, 0.005)
        latency[100:140] = value
        return latency

    assert certify_share(bursts(0.030), LIMIT, 0.95).verdict is Verdict.INCONCLUSIVE
    assert certify_share(bursts(0.011), LIMIT, 0.95).verdict is Verdict.CONFIRMED


def test_a_run_shorter_than_sixty_clusters_confirms_nothing():
    busy = np.repeat(np.tile([0.004, 0.020], 6), 80)  # 12 stretches, none of it over the limit
    found = certify_share(busy, LIMIT, 0.5)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.more > 0
    assert certify_share(np.tile([0.004, 0.020], 480), LIMIT, 0.5).verdict is Verdict.CONFIRMED


def test_one_stall_refutes_by_the_plain_count_and_a_crowd_near_the_limit_does_not():
    stall = np.full(1000, 0.005)
    stall[400:600] = np.linspace(2.0, 0.0, 200)
    assert certify_share(stall, LIMIT, 0.95).verdict is Verdict.REFUTED
    crowd = np.full(1000, 0.005)
    crowd[400:600] = 0.060
    assert certify_share(crowd, LIMIT, 0.95).verdict is Verdict.INCONCLUSIVE


def test_failures_are_counted_against_their_share():
    failed = np.zeros(5000, dtype=bool)
    assert certify_failures(failed, 0.001).verdict is Verdict.CONFIRMED  # 4,603 without one would do
    assert certify_failures(failed[:4000], 0.001).verdict is Verdict.INCONCLUSIVE
    failed[::100] = True
    assert certify_failures(failed, 0.001).verdict is Verdict.REFUTED


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("n", [1000, 6000])
def test_a_queue_exactly_at_its_limit_is_confirmed_in_few_runs(share, n):
    random, confirmed, runs = np.random.default_rng(17), 0, 200
    limit = -math.log(1.0 - share) / 0.3  # M/M/1 at 0.7: latency is Exp(1 - 0.7) in units of a service
    for _ in range(runs):
        due = np.cumsum(random.exponential(1.0 / 0.7, n + 1000))
        latency = queue_latency(due, random.exponential(1.0, n + 1000))[1000:]
        confirmed += certify_share(latency, limit, share).verdict is Verdict.CONFIRMED
    assert confirmed <= 0.05 * runs


def test_means_are_judged_by_the_interval_of_batch_means():
    latency = np.random.default_rng(2).gamma(4.0, 0.0025, 2000)  # mean 10 ms
    assert certify_mean(latency, 0.011).verdict is Verdict.CONFIRMED
    assert certify_mean(latency, 0.009).verdict is Verdict.REFUTED
    near = certify_mean(latency, float(latency.mean()) + 1e-5)
    assert near.verdict is Verdict.INCONCLUSIVE
    assert near.more > 0
    assert near.low < 0.010 < near.high


def test_the_interval_of_a_mean_misses_as_seldom_as_it_says():
    random, beyond = np.random.default_rng(3), 0
    for _ in range(400):
        found = certify_mean(random.exponential(0.01, 1000), 0.01)
        beyond += found.verdict is not Verdict.INCONCLUSIVE
    assert beyond <= 20  # 2 % are expected


def test_few_samples_say_nothing_about_a_mean():
    found = certify_mean(np.full(19, 0.001), 1.0)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert certify_mean(np.full(20, 0.001), 1.0).verdict is Verdict.CONFIRMED


def test_no_samples_have_no_certificate():
    empty = np.empty(0)
    for certify in (lambda: certify_share(empty, 1.0, 0.95), lambda: certify_mean(empty, 1.0)):
        with pytest.raises(InvalidInput, match="no samples"):
            certify()


@pytest.mark.parametrize(
    ("p", "freedom", "table"),
    [
        (0.975, 1, 12.7062),
        (0.975, 2, 4.3027),
        (0.99, 3, 4.5407),
        (0.975, 9, 2.2622),
        (0.995, 9, 3.2498),
        (0.99, 19, 2.5395),
        (0.995, 120, 2.6174),
        (0.5, 7, 0.0),
    ],
)
def test_student_quantiles_are_those_of_the_tables(p, freedom, table):
    assert student_quantile(p, freedom) == pytest.approx(table, abs=1e-4)


def test_student_is_symmetric_and_its_range_is_checked():
    for t, freedom in itertools.product((0.3, 1.7, 9.0), (1, 4, 9, 30)):
        assert student_cdf(t, freedom) + student_cdf(-t, freedom) == pytest.approx(1.0)
    for p, freedom in ((0.4, 3), (1.0, 3), (0.9, 0)):
        with pytest.raises(InvalidInput):
            student_quantile(p, freedom)
