import math

import numpy as np
import pytest

from nlpdeploy.loadtest.lengths import advise


def test_the_advised_length_grows_with_the_clusters():
    random = np.random.default_rng(1)
    scattered = random.gamma(4.0, 0.01, 20_000)
    clustered = np.repeat(random.gamma(4.0, 0.01, 2_000), 10)
    alone, together = advise(scattered, 0.95), advise(clustered, 0.95)
    assert alone.trusted
    assert together.trusted
    # Each ten count as one.
    assert 6.0 < together.requests / alone.requests < 16.0


def test_a_pilot_shorter_than_its_clusters_is_told_how_long_a_better_one_is():
    short = np.repeat(np.random.default_rng(2).gamma(4.0, 0.01, 20), 50)
    advice = advise(short, 0.95)
    assert not advice.trusted
    assert advice.requests > len(short)


@pytest.mark.parametrize("latency", [np.full(100, np.inf), np.zeros(100)])
def test_without_a_percentile_there_is_no_advice(latency):
    assert math.isinf(advise(latency, 0.95).requests)


def test_a_higher_percentile_takes_longer():
    latency = np.random.default_rng(3).gamma(4.0, 0.01, 50_000)
    lengths = [float(advise(latency, share).requests) for share in (0.5, 0.95, 0.99)]
    assert lengths[0] < lengths[2]
    assert lengths[1] < lengths[2]
