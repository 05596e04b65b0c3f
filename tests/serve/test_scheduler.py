"""The scheduler's policy on a simulated clock: no thread, no model, no time of this machine."""

import math
import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlpdeploy.bundle.evidence import LatencyCurve
from nlpdeploy.serve.forecast import Forecast
from nlpdeploy.serve.scheduler import Policy, Scheduler, Ticket, elements

CURVE = LatencyCurve(base=0.001, per_token=2e-5, per_row=1e-5, per_square=1e-8)


def scheduler(policy: Policy | None = None, curve: LatencyCurve | None = CURVE) -> Scheduler[str]:
    return Scheduler(policy or Policy(), Forecast(curve))


def ticket(length: int, arrived: float = 0.0, deadline: float = math.inf, owner: str = "") -> Ticket[str]:
    return Ticket(length, arrived, deadline, owner)


@dataclass(frozen=True)
class Run:
    """A batch of the simulation: when it started, what was in it, what was waiting."""

    start: float
    batch: list[Ticket[str]]
    waiting: list[Ticket[str]]


def simulate(plan: Scheduler[str], tickets: list[Ticket[str]], lanes: int = 1) -> list[Run]:
    """So many engines that take exactly the forecast time, until nothing waits."""
    coming = sorted(tickets, key=lambda t: t.arrived)
    waiting: list[Ticket[str]] = []
    running: list[tuple[float, float, list[Ticket[str]]]] = []
    runs, now = [], 0.0
    while coming or len(plan):
        while coming and coming[0].arrived <= now:
            waiting.append(coming[0])
            plan.add(coming.pop(0))
        for end, seconds, batch in [run for run in running if run[0] <= now]:
            running.remove((end, seconds, batch))
            plan.finished(batch, seconds, now)
        idle = len(running) < lanes
        batch = plan.next_batch(now) if idle else []
        waiting = [t for t in waiting if t.deadline > now]
        if batch:
            runs.append(Run(now, batch, waiting))
            waiting = [t for t in waiting if t not in batch]
            seconds = plan.batch_seconds(batch)
            running.append((now + seconds, seconds, batch))
            continue
        wake = plan.wake_at() if idle else None
        moments = [wake, coming[0].arrived if coming else None, min((run[0] for run in running), default=None)]
        moments = [moment for moment in moments if moment is not None]
        assert not moments or min(moments) > now, "the scheduler asks to be woken in the past and does nothing"
        now = min(moments, default=now)
    return runs


def due(policy: Policy, row: Ticket[str]) -> float:
    return min(row.deadline, row.arrived + policy.patience)


rows = st.builds(
    lambda length, arrived, allowed: ticket(length, arrived, arrived + allowed),
    st.integers(1, 512),
    st.floats(0, 0.2),
    st.one_of(st.just(math.inf), st.floats(0.001, 0.5)),
)
policies = st.builds(
    Policy,
    max_tokens=st.sampled_from([64, 512, 4096]),
    max_rows=st.sampled_from([1, 4, 32]),
    max_seconds=st.sampled_from([0.005, 0.03, 1.0]),
    linger=st.sampled_from([0.0, 0.0015]),
    patience=st.sampled_from([0.005, 0.1]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(rows, max_size=60), policies, st.sampled_from([1, 2, 3]))
def test_each_row_runs_once_or_expires_within_budgets_and_the_most_urgent_is_never_passed_over(
    tickets: list[Ticket[str]], policy: Policy, lanes: int
) -> None:
    runs = simulate(scheduler(policy), tickets, lanes)
    ran = [row for run in runs for row in run.batch]
    assert len(ran) == len(set(map(id, ran)))
    starts = {id(row): run.start for run in runs for row in run.batch}
    for row in tickets:
        if math.isinf(row.deadline):
            assert id(row) in starts, "a row without a deadline never ran"
        assert row.arrived <= starts.get(id(row), math.inf)
    for run in runs:
        assert len(run.batch) <= policy.max_rows
        assert len(run.batch) == 1 or elements(run.batch) <= policy.max_tokens
        assert all(row.deadline > run.start for row in run.batch)
        assert due(policy, run.batch[0]) == min(due(policy, row) for row in run.waiting)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 512), st.lists(st.integers(1, 512), min_size=200, max_size=200))
def test_an_odd_length_does_not_starve_under_a_flood_of_others(odd: int, lengths: list[int]) -> None:
    policy = Policy(patience=0.05)
    lonely = ticket(odd, 0.0)
    flood = [ticket(length, 0.001 * index) for index, length in enumerate(lengths)]
    runs = simulate(scheduler(policy), [lonely, *flood])
    start = next(run.start for run in runs if lonely in run.batch)
    # Rows that arrived after its patience may have come along with others, but never led a batch before it.
    leaders = [run.batch[0] for run in runs if run.start < start]
    assert all(due(policy, row) <= policy.patience for row in leaders)


def test_a_lone_row_at_an_idle_engine_starts_at_once() -> None:
    plan = scheduler()
    row = ticket(10, arrived=1.0)
    plan.add(row)
    assert plan.next_batch(1.0) == [row]
    assert plan.wake_at() is None


def finished_batch_of(plan: Scheduler[str], count: int, now: float) -> None:
    for _ in range(count):
        plan.add(ticket(10, arrived=now - 0.01))
    batch = plan.next_batch(now - 0.005)
    plan.finished(batch, plan.batch_seconds(batch), now)


def test_after_a_batch_of_several_the_first_to_come_back_waits_for_the_others() -> None:
    plan = scheduler(Policy(linger=0.0015))
    finished_batch_of(plan, 4, now=1.0)
    plan.add(ticket(10, arrived=1.0001))
    assert plan.next_batch(1.0001) == []
    # No longer than a companion is worth, which is the fixed cost of one call.
    assert plan.wake_at() == pytest.approx(1.0 + CURVE.base)
    assert len(plan.next_batch(1.0 + 1.01 * CURVE.base)) == 1


def test_the_policy_caps_the_wait_where_calls_are_dear() -> None:
    dear = LatencyCurve(base=0.02, per_token=0.0, per_row=0.0, per_square=0.0)
    plan = scheduler(Policy(linger=0.0015), dear)
    finished_batch_of(plan, 4, now=1.0)
    plan.add(ticket(10, arrived=1.0001))
    assert plan.next_batch(1.0001) == []
    assert plan.wake_at() == pytest.approx(1.0015)


def test_the_wait_ends_as_soon_as_half_of_the_last_batch_is_there() -> None:
    plan = scheduler(Policy(linger=0.0015))
    finished_batch_of(plan, 6, now=1.0)
    for moment in (1.0001, 1.0002):
        plan.add(ticket(10, arrived=moment))
        assert plan.next_batch(moment) == []
    plan.add(ticket(10, arrived=1.0003))
    assert len(plan.next_batch(1.0003)) == 3


def test_a_row_that_comes_long_after_a_batch_of_several_does_not_wait() -> None:
    plan = scheduler()
    finished_batch_of(plan, 4, now=1.0)
    plan.add(ticket(10, arrived=2.0))
    assert len(plan.next_batch(2.0)) == 1


def test_the_wait_for_company_ends_in_time_for_a_deadline() -> None:
    plan = scheduler(Policy(linger=0.0015))
    finished_batch_of(plan, 6, now=1.0)
    plan.add(ticket(10, arrived=1.0001, deadline=1.0018))
    assert plan.next_batch(1.0001) == []
    assert plan.wake_at() == pytest.approx(1.0018 - plan.forecast.seconds(10, 1))


def test_a_lone_row_at_an_idle_engine_starts_at_once_while_another_one_is_busy() -> None:
    plan = scheduler()
    for moment in (1.0, 1.0005):
        row = ticket(10, arrived=moment)
        plan.add(row)
        assert plan.next_batch(moment) == [row]


def test_as_many_clients_as_engines_never_wait() -> None:
    plan, chance = scheduler(), random.Random(5)
    asked = []
    for _ in ("one client", "another"):
        now = chance.random() / 100
        for _ in range(100):
            row = ticket(chance.randint(1, 512), arrived=now)
            asked.append(row)
            now += plan.forecast.seconds(row.length, 1) + chance.random() / 100  # answered, and some time to think
    runs = simulate(plan, asked, lanes=2)
    assert all(run.batch == [run.batch[0]] and run.start == run.batch[0].arrived for run in runs)
    assert len(runs) == len(asked)


def test_neighbours_by_length_go_together_and_far_lengths_apart() -> None:
    plan = scheduler()
    for length in (500, 10, 11, 480, 12, 9):
        plan.add(ticket(length))
    first = plan.next_batch(0.0)
    assert sorted(row.length for row in first) == [480, 500]
    plan.finished(first, 0.02, 0.02)
    assert sorted(row.length for row in plan.next_batch(1.0)) == [9, 10, 11, 12]


def test_an_earlier_deadline_goes_first_and_an_expired_row_never_runs() -> None:
    plan = scheduler(Policy(max_rows=1, patience=10.0))
    expired, late, early = ticket(10, deadline=0.5), ticket(10, deadline=9.0), ticket(10, deadline=3.0)
    for row in (expired, late, early):
        plan.add(row)
    assert [plan.next_batch(1.0), plan.next_batch(2.0), plan.next_batch(2.5)] == [[early], [late], []]
    assert len(plan) == 0
    assert plan.tokens == 0


def test_a_discarded_row_never_runs_and_counts_no_more() -> None:
    plan = scheduler()
    kept, gone = ticket(10), ticket(12)
    plan.add(kept)
    plan.add(gone)
    plan.discard(gone)
    plan.discard(gone)
    assert (len(plan), plan.tokens) == (1, 10)
    assert plan.next_batch(0.0) == [kept]


def test_the_forecast_learns_the_speed_of_the_machine() -> None:
    forecast = Forecast(CURVE)
    before = forecast.seconds(100, 4)
    for _ in range(60):
        forecast.observe(100, 4, 3 * before)
    assert forecast.seconds(100, 4) == pytest.approx(3 * before, rel=0.01)
    assert forecast.seconds(400, 4) == pytest.approx(3 * CURVE.seconds(400, 4), rel=0.01)


def test_a_backlog_is_forecast_in_full_batches() -> None:
    forecast = Forecast(LatencyCurve(base=0.001, per_token=1e-5, per_row=0.0, per_square=0.0))
    assert forecast.backlog(0, 0, max_tokens=1000, max_rows=32) == 0.0
    assert forecast.backlog(3000, 30, max_tokens=1000, max_rows=32) == pytest.approx(3 * (0.001 + 0.01))
    assert forecast.backlog(640, 64, max_tokens=1000, max_rows=32) == pytest.approx(2 * (0.001 + 0.0032))
