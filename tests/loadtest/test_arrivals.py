import numpy as np
import pytest

from nlpdeploy.bundle.errors import InvalidInput, NotFound
from nlpdeploy.loadtest.arrivals import arrival_offsets, block_offsets, block_rows, payload_rows
from nlpdeploy.loadtest.plan import draw_blocks
from nlpdeploy.loadtest.trace import open_trace
from support.loadruns import plan


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


def whole(made):
    (block,) = draw_blocks(made)
    return np.sort(np.concatenate([block_offsets(made, block, worker) for worker in range(made.workers)]))


@pytest.mark.parametrize("burstiness", [0.5, 1.0, 2.0, 4.0])
def test_gamma_gaps_have_the_burstiness_asked_for(burstiness):
    due = whole(plan(arrivals="gamma", burstiness=burstiness, rate=200.0, seconds=300.0, workers=3))
    gaps = np.diff(due)
    assert len(due) == pytest.approx(60_000, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness, rel=0.05)
    assert due[0] > 0
    assert due[-1] < 300.0


def test_a_ramp_rises_along_a_line():
    due = whole(plan(arrivals="ramp", ramp_from=20.0, rate=180.0, seconds=200.0))
    counts = np.histogram(due, bins=4, range=(0.0, 200.0))[0]
    assert counts == pytest.approx([2000, 4000, 6000, 8000], rel=0.06)
    flat = whole(plan(arrivals="ramp", ramp_from=100.0, rate=100.0, seconds=100.0))
    assert len(flat) == pytest.approx(10_000, rel=0.05)


@pytest.mark.parametrize("arrivals", ["gamma", "ramp"])
def test_a_schedule_that_is_dealt_out_does_not_depend_on_the_number_of_workers(arrivals):
    alone, shared = (whole(plan(arrivals=arrivals, workers=workers)) for workers in (1, 4))
    assert np.array_equal(alone, shared)


def test_a_trace_is_replayed_with_its_own_gaps_and_texts(tmp_path):
    path = tmp_path / "log.csv"
    times = [
        "2026-11-05T12:00:00+00:00",
        "2026-11-05T12:00:01.5+00:00",
        "2026-11-05T12:00:01.5+00:00",
        "2026-11-05T12:00:06+00:00",
    ]
    path.write_text("timestamp,text\n" + "".join(f"{at},text {at}\n" for at in times), encoding="utf-8")
    trace, rate = open_trace(path, texts=True)
    assert (trace.rows, rate) == (4, pytest.approx(0.5))
    own = plan(arrivals="replay", trace=trace, rate=rate, seconds=8.0)
    assert whole(own) == pytest.approx([0.0, 1.5, 1.5, 6.0])
    assert whole(plan(arrivals="replay", trace=trace, rate=2 * rate, seconds=4.0)) == pytest.approx(
        [0.0, 0.75, 0.75, 3.0]
    )
    (block,) = draw_blocks(own)
    assert block_rows(own, block, 0, 4).tolist() == [0, 1, 2, 3]
    path.write_text("timestamp,text\n0,a\n1,b\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match="another content"):
        whole(own)


@pytest.mark.parametrize(
    ("content", "word"),
    [("0\nsoon\n", "time 2"), ("5\n4\n", "before the one above"), ("1\n", "at least two"), ("", "two")],
)
def test_a_trace_without_times_in_order_is_refused(tmp_path, content, word):
    path = tmp_path / "times.txt"
    path.write_text(content)
    with pytest.raises(InvalidInput, match=word):
        open_trace(path)
    with pytest.raises(NotFound):
        open_trace(tmp_path / "none.txt")
