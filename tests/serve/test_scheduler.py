"""The scheduler's policy on a simulated clock: no thread, no model, no time of this machine."""

import math
import random
from dataclasses import replace

import pytest

from nlpdeploy.bundle.evidence import LatencyCurve
from nlpdeploy.bundle.specs import Layout
from nlpdeploy.serve.forecast import LEAST_MARGIN, Forecast
from nlpdeploy.serve.policy import LEAST_PACKED, MOST_PACKED, Policy, for_layout, packed_budget
from nlpdeploy.serve.scheduler import Scheduler
from nlpdeploy.serve.ticket import Batch, Priority, Ticket
from support.scheduling import CURVE, Request, Simulation, noisy, scheduler

SOMEBODY = Request(0.0, math.inf, (1,))


def ticket(
    length: int, arrived: float = 0.0, deadline: float = math.inf, priority: Priority = Priority.NORMAL
) -> Ticket[Request]:
    return Ticket(length, arrived, deadline, SOMEBODY, 0, priority)


def waiting(plan: Scheduler[Request], *tickets: Ticket[Request]) -> Scheduler[Request]:
    for one in tickets:
        plan.add(one)
    return plan


def batch(plan: Scheduler[Request], now: float) -> list[Ticket[Request]]:
    """Rows of the next batch, which is left running; none where there is no batch."""
    found = plan.next_batch(now)
    return found.tickets if found else []


def started(plan: Scheduler[Request], now: float) -> Batch[Request]:
    found = plan.next_batch(now)
    assert found is not None
    return found


def finished_batch_of(plan: Scheduler[Request], count: int, now: float) -> None:
    waiting(plan, *(ticket(10, arrived=now - 0.01) for _ in range(count)))
    run = started(plan, now - 0.005)
    assert len(run) == count
    plan.finished(run, run.seconds, now)


# -- when ---------------------------------------------------------------------------------------------------------


def test_a_lone_row_at_an_idle_engine_starts_at_once() -> None:
    row = ticket(10, arrived=1.0)
    plan = waiting(scheduler(), row)
    assert batch(plan, 1.0) == [row]
    assert plan.next_batch(1.0) is None
    assert plan.wake_at() is None


def test_after_a_batch_of_several_the_first_to_come_back_waits_for_the_others() -> None:
    plan = scheduler(Policy(linger=0.0015))
    finished_batch_of(plan, 4, now=1.0)
    waiting(plan, ticket(10, arrived=1.0001))
    assert batch(plan, 1.0001) == []
    # No longer than a companion is worth, which is the fixed cost of one call.
    assert plan.wake_at() == pytest.approx(1.0 + CURVE.base)
    assert len(batch(plan, 1.0 + 1.01 * CURVE.base)) == 1


def test_the_policy_caps_the_wait_where_calls_are_dear() -> None:
    dear = LatencyCurve(base=0.02, per_token=0.0, per_row=0.0, per_square=0.0)
    plan = scheduler(Policy(linger=0.0015), dear)
    finished_batch_of(plan, 4, now=1.0)
    waiting(plan, ticket(10, arrived=1.0001))
    assert batch(plan, 1.0001) == []
    assert plan.wake_at() == pytest.approx(1.0015)


def test_the_wait_ends_as_soon_as_half_of_the_last_batch_is_there() -> None:
    plan = scheduler(Policy(linger=0.0015))
    finished_batch_of(plan, 6, now=1.0)
    for moment in (1.0001, 1.0002):
        waiting(plan, ticket(10, arrived=moment))
        assert batch(plan, moment) == []
    waiting(plan, ticket(10, arrived=1.0003))
    assert len(batch(plan, 1.0003)) == 3


def test_a_row_that_comes_long_after_a_batch_of_several_does_not_wait() -> None:
    plan = scheduler()
    finished_batch_of(plan, 4, now=1.0)
    waiting(plan, ticket(10, arrived=2.0))
    assert len(batch(plan, 2.0)) == 1


def test_the_wait_for_company_ends_in_time_for_a_deadline() -> None:
    plan = scheduler(Policy(linger=0.0015))
    finished_batch_of(plan, 6, now=1.0)
    alone = plan.forecast.seconds(10, 1)
    waiting(plan, ticket(10, arrived=1.0001, deadline=1.0004 + 1.4 * alone))
    assert batch(plan, 1.0001) == []
    wake = plan.wake_at()
    assert wake is not None
    assert wake < 1.0 + CURVE.base
    assert wake + alone < 1.0004 + 1.4 * alone
    assert len(batch(plan, wake)) == 1


def test_a_lone_row_at_an_idle_engine_starts_at_once_while_another_one_is_busy() -> None:
    plan = scheduler(lanes=2)
    for moment in (1.0, 1.0005):
        row = ticket(10, arrived=moment)
        assert batch(waiting(plan, row), moment) == [row]


def test_as_many_clients_as_engines_never_wait() -> None:
    plan, chance = scheduler(lanes=2), random.Random(5)
    asked = []
    for _ in ("one client", "another"):
        now = chance.random() / 100
        for _ in range(100):
            length = chance.randint(1, 512)
            asked.append(Request(now, math.inf, (length,)))
            now += CURVE.seconds(length, 1) + chance.random() / 100  # answered, and some time to think
    calls = Simulation(plan, 2, noisy(CURVE, 0.0)).run(asked)
    assert all(len(call.batch) == 1 and call.start == call.batch.tickets[0].arrived for call in calls)
    assert len(calls) == len(asked)


# -- who ----------------------------------------------------------------------------------------------------------


def test_padded_neighbours_by_length_go_together_and_far_lengths_apart() -> None:
    plan = waiting(scheduler(), *(ticket(length) for length in (500, 10, 11, 480, 12, 9)))
    first = started(plan, 0.0)
    assert sorted(row.length for row in first.tickets) == [480, 500]
    plan.finished(first, 0.02, 0.02)
    assert sorted(row.length for row in batch(plan, 1.0)) == [9, 10, 11, 12]


def test_packed_rows_go_in_the_order_of_arrival_until_the_call_is_full() -> None:
    plan = scheduler(Policy(max_tokens=64), layout=Layout.PACKED)
    rows = [ticket(length) for length in (30, 20, 40, 14, 5)]
    waiting(plan, *rows)
    first = started(plan, 0.0)
    assert first.tickets == [rows[0], rows[1], rows[3]]  # 64 tokens; the third doesn't fit, and leads the next
    assert (first.elements, first.rows) == (64, 1)
    assert batch(plan, 0.0) == [rows[2], rows[4]]


def test_a_packed_text_over_the_budget_goes_alone() -> None:
    plan = waiting(scheduler(Policy(max_tokens=64), layout=Layout.PACKED), ticket(100), ticket(5))
    assert [row.length for row in batch(plan, 0.0)] == [100]


def test_the_packed_budget_is_the_smallest_call_that_is_nearly_as_good_as_the_best() -> None:
    flat = LatencyCurve(base=0.001, per_token=1e-5, per_row=0.0, per_square=0.0)
    squared = LatencyCurve(base=0.0005, per_token=1e-5, per_row=0.0, per_square=4e-8)
    free = LatencyCurve(base=0.0, per_token=1e-5, per_row=0.0, per_square=0.0)
    assert packed_budget(flat, 1.0) == 448 < MOST_PACKED  # the fixed cost shrinks for each token as far as it goes
    assert 64 < packed_budget(squared, 1.0) < 128  # about sqrt(base / per_square) = 112, from below
    assert packed_budget(free, 1.0) == LEAST_PACKED
    assert packed_budget(flat, 0.004) <= 300  # 4 ms are 300 tokens
    exported_on_a_busy_machine = LatencyCurve(base=0.01, per_token=1e-4, per_row=0.0, per_square=0.0)
    assert for_layout(Policy(), Layout.PACKED, exported_on_a_busy_machine).max_tokens < 210  # of 30 ms
    slow = LatencyCurve(base=0.04, per_token=1e-4, per_row=0.0, per_square=0.0)
    assert packed_budget(slow, 0.03) > 256  # small calls would only be slower for each token
    corrected = for_layout(Policy(), Layout.PACKED, exported_on_a_busy_machine, 0.1)
    assert corrected.max_tokens == packed_budget(flat, 0.03)


def test_what_finds_several_lanes_idle_is_shared_out_where_that_saves_time() -> None:
    for layout in Layout:
        plan = waiting(scheduler(layout=layout, lanes=2), *(ticket(16) for _ in range(16)))
        assert [len(batch(plan, 0.0)), len(batch(plan, 0.0))] == [8, 8]
    fixed = LatencyCurve(base=0.01, per_token=1e-6, per_row=0.0, per_square=0.0)
    plan = waiting(scheduler(curve=fixed, lanes=2), *(ticket(16) for _ in range(16)))
    assert len(batch(plan, 0.0)) == 16


def test_an_earlier_deadline_goes_first_and_an_expired_row_never_runs() -> None:
    plan = scheduler(Policy(max_rows=1, patience=10.0))
    expired, late, early = ticket(10, deadline=0.5), ticket(10, deadline=9.0), ticket(10, deadline=3.0)
    waiting(plan, expired, late, early)
    assert [batch(plan, 1.0), batch(plan, 2.0), batch(plan, 2.5)] == [[early], [late], []]
    assert (len(plan), plan.tokens, plan.take_dropped()) == (0, 0, [])


def test_a_high_priority_goes_first_but_not_before_a_row_that_is_older_by_the_head_start() -> None:
    plan = scheduler(Policy(max_rows=1, head_start=1.0))
    old, normal = ticket(10, arrived=0.0), ticket(10, arrived=0.5)
    high = ticket(10, arrived=1.2, priority=Priority.HIGH)
    waiting(plan, old, normal, high)
    assert [batch(plan, 1.2) for _ in range(3)] == [[old], [high], [normal]]


def test_high_rows_take_one_another_along_before_normal_ones_of_a_better_length() -> None:
    plan = scheduler(Policy(max_rows=2))
    rows = [ticket(10), ticket(10), *(ticket(length, priority=Priority.HIGH) for length in (10, 12))]
    assert batch(waiting(plan, *rows), 0.0) == rows[2:]


def test_a_discarded_row_never_runs_and_counts_no_more() -> None:
    for layout in Layout:
        kept, gone = ticket(10), ticket(12)
        plan = waiting(scheduler(layout=layout), kept, gone)
        plan.discard(gone)
        plan.discard(gone)
        assert (len(plan), plan.tokens) == (1, 10)
        assert batch(plan, 0.0) == [kept]


# -- in time ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", Layout)
def test_company_that_would_make_the_leader_late_stays_behind(layout: Layout) -> None:
    alone, many = CURVE.seconds(32, 1), CURVE.seconds(192, 1 if layout is Layout.PACKED else 6)
    leader = ticket(32, deadline=(alone + many) / 2)
    plan = waiting(scheduler(layout=layout), leader, *(ticket(32) for _ in range(5)))
    run = started(plan, 0.0)
    assert run.tickets[0] is leader
    assert 1 < len(run) < 6
    assert run.end <= leader.deadline


@pytest.mark.parametrize("layout", Layout)
def test_who_would_be_late_with_a_batch_is_not_taken_along_and_the_others_are(layout: Layout) -> None:
    policy = Policy(patience=0.0)  # in the order of arrival
    hurried = ticket(32, deadline=1.2 * CURVE.seconds(64, 2))
    rows = [ticket(32) for _ in range(6)]
    plan = waiting(scheduler(policy, layout=layout), *rows[:3], hurried, *rows[3:])
    assert hurried not in batch(plan, 0.0)


def test_a_row_that_cannot_be_met_any_more_is_dropped_and_the_others_run() -> None:
    hopeless, fine = ticket(100, deadline=0.002), ticket(10, deadline=5.0)
    plan = waiting(scheduler(), hopeless, fine)
    assert batch(plan, 0.0) == [fine]
    assert plan.take_dropped() == [hopeless]
    assert plan.take_dropped() == []
    assert len(plan) == 0


def test_where_nothing_can_be_met_and_nothing_runs_one_is_tried() -> None:
    plan = waiting(scheduler(), ticket(100, deadline=0.002), ticket(100, deadline=0.0025))
    tried = started(plan, 0.0)
    assert [row.deadline for row in tried.tickets] == [0.0025]
    assert plan.take_dropped() == []
    plan.finished(tried, 0.0003, 0.0003)
    assert plan.forecast.correction < 1


def test_where_none_has_time_for_a_full_call_the_queue_is_not_emptied_but_calls_get_smaller() -> None:
    long = LatencyCurve(base=0.002, per_token=4e-4, per_row=0.0, per_square=0.0)
    plan = scheduler(curve=long, layout=Layout.PACKED)  # a full call takes 28 ms and more, one row 8
    rows = [ticket(16, deadline=0.026) for _ in range(40)]
    run = started(waiting(plan, *rows), 0.0)
    assert plan.take_dropped() == []
    assert 1 <= len(run) < 4
    assert run.end < 0.026


def test_hopeless_rows_are_not_dropped_while_one_of_them_is_tried() -> None:
    plan = waiting(scheduler(lanes=2), *(ticket(100, deadline=0.002) for _ in range(5)))
    assert len(started(plan, 0.0)) == 1
    assert plan.next_batch(0.0) is None
    assert (plan.take_dropped(), len(plan)) == ([], 4)


def test_a_newcomer_is_charged_with_those_before_it_only() -> None:
    plan = scheduler(Policy(max_rows=1, patience=100.0))
    waiting(plan, *(ticket(100, deadline=50.0) for _ in range(30)))
    started(plan, 0.0)
    once = CURVE.seconds(100, 1)
    assert plan.refusal([ticket(100, deadline=3 * once)], 0.0) is None  # behind the running one alone
    wait = plan.refusal([ticket(100, deadline=1.5 * once)], 0.0)
    assert wait == pytest.approx(2 * once)


def test_a_newcomer_that_would_cost_an_admitted_row_its_answer_is_refused_and_a_high_one_is_not() -> None:
    plan = scheduler(Policy(max_rows=1, patience=0.04))
    once = CURVE.seconds(100, 1)
    waiting(plan, ticket(100))
    started(plan, 0.0)
    waiting(plan, *(ticket(100, deadline=(k + 2) * once) for k in range(10)))  # each just in time
    # In time itself after the first two, yet it makes the third late.
    assert plan.refusal([ticket(100, deadline=3.9 * once)], 0.0) is not None
    assert plan.refusal([ticket(100, deadline=3.9 * once, priority=Priority.HIGH)], 0.0) is None


def test_with_an_idle_lane_and_nothing_that_waits_the_forecast_is_not_asked() -> None:
    plan = scheduler(lanes=2)
    assert plan.refusal([ticket(100, deadline=1e-6)], 0.0) is None
    started(waiting(plan, ticket(100)), 0.0)
    assert plan.refusal([ticket(100, deadline=1e-6)], 0.0) is None
    started(waiting(plan, ticket(100)), 0.0)
    assert plan.refusal([ticket(100, deadline=1e-6)], 0.0) is not None


def test_a_request_of_many_rows_is_judged_by_its_last() -> None:
    plan = scheduler(Policy(max_rows=1))
    started(waiting(plan, ticket(100)), 0.0)
    once = CURVE.seconds(100, 1)
    assert plan.refusal([ticket(100, deadline=6.5 * once)] * 5, 0.0) is None
    assert plan.refusal([ticket(100, deadline=6.5 * once)] * 8, 0.0) is not None


def test_a_request_is_no_sooner_done_because_its_last_row_finds_another_lane() -> None:
    plan = scheduler(layout=Layout.PACKED, lanes=2)
    most = plan.policy.max_tokens
    plan.running.append(Batch([], 16, 1, 0.0, 0.0))  # a call that is as good as done
    deadline = 0.75 * CURVE.seconds(most, 1)
    waiting(plan, *(ticket(16, deadline=deadline) for _ in range(most // 16 - 1)))  # a row less than a full call
    assert plan.refusal([ticket(32, deadline=deadline)], 0.0) is not None
    assert plan.refusal([ticket(32, deadline=deadline), ticket(16, deadline=deadline)], 0.0) is not None
    assert plan.hopeless(32, deadline, 0.0) is not None


def test_the_backlog_is_forecast_in_full_calls_on_all_lanes() -> None:
    flat = LatencyCurve(base=0.001, per_token=1e-5, per_row=0.0, per_square=0.0)
    plan = scheduler(Policy(max_tokens=128), flat, layout=Layout.PACKED, lanes=2)
    assert plan.drain_seconds(0.0) == pytest.approx(0.0, abs=0.0015)
    waiting(plan, *(ticket(16) for _ in range(80)))  # 10 full calls, 5 a lane
    assert plan.drain_seconds(0.0) == pytest.approx(5 * flat.seconds(128, 1), rel=0.25)


# -- the wide engine ----------------------------------------------------------------------------------------------


def with_wide(factor: float, lanes: int = 2) -> Scheduler[Request]:
    curve = replace(CURVE, **{name: factor * getattr(CURVE, name) for name in ("base", "per_token", "per_square")})
    return scheduler(layout=Layout.PACKED, lanes=lanes, wide=Forecast(curve))


def test_a_lone_long_row_runs_wide_where_that_is_clearly_faster_and_the_lanes_wait() -> None:
    plan = waiting(with_wide(0.6), ticket(128))
    run = started(plan, 0.0)
    assert run.wide
    waiting(plan, ticket(10, arrived=0.001))
    assert plan.next_batch(0.001) is None
    assert plan.wake_at() is None
    plan.finished(run, run.seconds, 0.002)
    assert not started(plan, 0.002).wide or len(plan) == 0


def test_wide_is_not_taken_for_a_small_gain_nor_while_a_lane_runs_nor_where_the_lanes_share_as_fast() -> None:
    assert not started(waiting(with_wide(0.9), ticket(128)), 0.0).wide
    plan = waiting(with_wide(0.6), ticket(128))
    started(plan, 0.0).wide = False  # as if a lane had it
    assert not started(waiting(plan, ticket(128)), 0.0).wide
    assert not started(waiting(with_wide(0.6), *(ticket(64) for _ in range(4))), 0.0).wide


def test_each_engine_has_a_forecast_of_its_own() -> None:
    plan = waiting(with_wide(0.6), ticket(128))
    run = started(plan, 0.0)
    plan.finished(run, 4 * run.seconds, 1.0)
    assert plan.forecast.correction == 1.0


# -- the forecast -------------------------------------------------------------------------------------------------


def test_the_forecast_learns_the_speed_of_the_machine() -> None:
    forecast = Forecast(CURVE)
    before = forecast.seconds(100, 4)
    for _ in range(60):
        forecast.observe(100, 4, 3 * before)
    assert forecast.seconds(100, 4) == pytest.approx(3 * before, rel=0.01)
    assert forecast.seconds(400, 4) == pytest.approx(3 * CURVE.seconds(400, 4), rel=0.01)


def test_one_hiccup_says_little() -> None:
    forecast = Forecast(CURVE)
    forecast.observe(100, 4, 1000.0)
    assert forecast.correction < 1.2


def test_the_margin_grows_where_calls_are_irregular_and_shrinks_where_they_are_not() -> None:
    steady, irregular, chance = Forecast(CURVE), Forecast(CURVE), random.Random(1)
    calls = []
    for _ in range(300):
        steady.observe(100, 4, steady.seconds(100, 4))
        factor = chance.lognormvariate(0.0, 0.3)
        calls.append(factor / irregular.correction / irregular.margin)
        irregular.observe(100, 4, factor * CURVE.seconds(100, 4))
    assert steady.margin == LEAST_MARGIN
    late = sum(call > 1 for call in calls[100:]) / 200
    assert 0 < late < 0.1
