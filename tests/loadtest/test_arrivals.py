import numpy as np
import pytest

from nlpdeploy.bundle.errors import InvalidInput
from nlpdeploy.loadtest.arrivals import arrival_offsets, payload_rows


def merged(kind, rate, seconds, seed, workers):
    return np.sort(np.concatenate([arrival_offsets(kind, rate, seconds, seed, at, workers) for at in range(workers)]))


@pytest.mark.parametrize("workers", [1, 10])
def test_merged_poisson_counts_vary_as_poisson_counts_do(workers):
    due = merged("poisson", 200.0, 500.0, 3, workers)
    counts = np.bincount(due.astype(int), minlength=500)
    assert counts.mean() == pytest.approx(200.0, rel=0.02)
    assert 0.8 < counts.var(ddof=1) / counts.mean() < 1.2
    gaps = np.diff(due)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.03)


def test_workers_never_send_in_lockstep():
    one, other = (arrival_offsets("poisson", 200.0, 50.0, 3, worker, 2) for worker in range(2))
    assert not np.intersect1d(one, other).size


@pytest.mark.parametrize("workers", [1, 3])
def test_merged_constant_arrivals_stand_evenly(workers):
    due = merged("constant", 100.0, 10.0, 3, workers)
    assert len(due) == 1000
    assert np.allclose(due, np.arange(1000) / 100.0)


@pytest.mark.parametrize("kind", ["poisson", "constant"])
def test_the_schedule_is_a_function_of_the_seed_and_stays_inside_the_run(kind):
    due = arrival_offsets(kind, 333.3, 7.7, 5, 1, 2)
    assert np.array_equal(due, arrival_offsets(kind, 333.3, 7.7, 5, 1, 2))
    assert (np.diff(due) > 0).all()
    assert due[0] >= 0
    assert due[-1] < 7.7


def test_the_seed_changes_a_poisson_schedule():
    assert not np.array_equal(*(arrival_offsets("poisson", 50.0, 5.0, seed, 0, 1)[:100] for seed in (1, 2)))


def test_a_low_rate_may_have_no_arrival_at_all():
    assert len(arrival_offsets("poisson", 0.001, 0.01, 1, 0, 1)) == 0


@pytest.mark.parametrize(("rate", "seconds", "worker"), [(0.0, 1.0, 0), (1.0, 0.0, 0), (1.0, 1.0, 2), (1.0, 1.0, -1)])
def test_arguments_out_of_range_are_refused(rate, seconds, worker):
    with pytest.raises(InvalidInput):
        arrival_offsets("poisson", rate, seconds, 1, worker, 2)


def test_payloads_go_through_every_row_before_one_comes_again():
    rows = payload_rows(50, 175, 7, 0)
    assert rows.dtype == np.int32
    for start in (0, 50, 100):
        assert sorted(rows[start : start + 50]) == list(range(50))
    assert len(rows) == 175
    assert not np.array_equal(rows[:50], rows[50:100])
    assert not np.array_equal(rows, payload_rows(50, 175, 7, 1))
    assert np.array_equal(rows, payload_rows(50, 175, 7, 0))
    assert len(payload_rows(50, 0, 7, 0)) == 0
