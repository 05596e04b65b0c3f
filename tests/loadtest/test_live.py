import math

import numpy as np
import pytest

from nlpdeploy.loadtest.live import live_line, quantile_ms, step
from nlpdeploy.loadtest.orders import line


def counted(latencies):
    steps = {}
    for latency in latencies:
        steps[step(latency)] = steps.get(step(latency), 0) + 1
    return steps


@pytest.mark.parametrize("share", [0.01, 0.5, 0.95, 1.0])
def test_quantiles_so_far_are_at_most_five_percent_too_high(share):
    latencies = np.random.default_rng(3).lognormal(-4.0, 1.0, 5000)
    exact = 1e3 * np.sort(latencies)[math.ceil(share * 5000) - 1]
    assert exact <= quantile_ms(counted(latencies), share, 5000) <= 1.06 * exact


def test_requests_without_a_good_answer_are_slower_than_all():
    steps = counted([0.010] * 90)
    assert quantile_ms(steps, 0.9, 100) < 11
    assert quantile_ms(steps, 0.95, 100) == math.inf


def test_the_line_adds_the_workers_up():
    report = {"due": 60, "outcomes": {"OK": 40, "ERROR": 10}, "steps": {str(step(0.02)): 40}}
    said = live_line([report, report], 2.0, 8.4)
    assert said == "120 due at 60/s, 20 in flight, p50 20 ms, p95 none, 80 ok, 20 not ok, 8 s left"
    assert live_line([], 0.0, 10.0).startswith("0 due at 0/s, 0 in flight, p50 -, p95 -")


def test_a_report_stays_small_however_many_latencies_there_are():
    steps = dict.fromkeys(range(step(60.0) + 1), 10**6)
    assert len(line({"event": "progress", "due": 10**9, "outcomes": {"OK": 10**9}, "steps": steps})) < 8192
