"""What the scheduler promises whatever comes, on a simulated clock: hypothesis looks for the counterexample."""

import math
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from nlpdeploy.bundle.specs import Layout
from nlpdeploy.serve.forecast import MOST_MARGIN
from nlpdeploy.serve.policy import Policy
from nlpdeploy.serve.ticket import Priority, Ticket
from support.scheduling import CURVE, Call, Request, Simulation, noisy, scheduler

requests = st.builds(
    lambda lengths, arrived, allowed, priority: Request(arrived, arrived + allowed, tuple(lengths), priority),
    st.lists(st.integers(1, 512), min_size=1, max_size=5),
    st.floats(0, 0.2),
    st.one_of(st.just(math.inf), st.floats(0.001, 0.5)),
    st.sampled_from(Priority),
)
policies = st.builds(
    Policy,
    max_tokens=st.sampled_from([64, 512, 4096]),
    max_rows=st.sampled_from([1, 4, 32]),
    max_seconds=st.sampled_from([0.005, 0.03, 1.0]),
    linger=st.sampled_from([0.0, 0.0015]),
    patience=st.sampled_from([0.005, 0.1]),
    head_start=st.sampled_from([0.0, 0.05, 1.0]),
)
layouts, lane_counts = st.sampled_from(Layout), st.sampled_from([1, 2, 3])


def simulated(asked: list[Request], policy: Policy, layout: Layout, lanes: int, spread: float = 0.2) -> list[Call]:
    plan = scheduler(policy, layout=layout, lanes=lanes)
    calls = Simulation(plan, lanes, noisy(CURVE, spread)).run(asked)
    assert (len(plan), plan.tokens, plan.running) == (0, 0, [])
    return calls


@dataclass
class Unread(Simulation):
    """Asks of each request, before it is read, whether it is hopeless; its first row has some tokens more than said."""

    verdicts: list[tuple[bool, bool]] = field(default_factory=list)

    def _arrive(self, request: Request, now: float) -> None:
        if request.priority is Priority.NORMAL and not math.isinf(request.deadline):
            rows = [Ticket(length, now, request.deadline, request) for length in request.lengths]
            refused = self.plan.refusal(rows, now) is not None
            for known in {1, request.lengths[0] // 2 or 1, request.lengths[0]}:
                self.verdicts.append((self.plan.hopeless(known, request.deadline, now) is not None, refused))
        super()._arrive(request, now)


@settings(max_examples=150, deadline=None)
@given(st.lists(requests, max_size=40), policies, layouts, lane_counts)
def test_whoever_is_sent_away_unread_would_be_refused_when_read(
    asked: list[Request], policy: Policy, layout: Layout, lanes: int
) -> None:
    simulation = Unread(scheduler(policy, layout=layout, lanes=lanes), lanes, noisy(CURVE, 0.2))
    simulation.run(asked)
    assert not [verdict for verdict in simulation.verdicts if verdict == (True, False)]


@settings(max_examples=120, deadline=None)
@given(st.lists(requests, max_size=40), policies, layouts, lane_counts)
def test_every_row_has_one_end_and_no_call_breaks_a_budget_or_a_deadline(
    asked: list[Request], policy: Policy, layout: Layout, lanes: int
) -> None:
    calls = simulated(asked, policy, layout, lanes)
    ran = [(id(row.owner), row.index) for call in calls for row in call.batch.tickets]
    assert len(ran) == len(set(ran))
    for request in asked:
        rows = {(id(request), index) for index in range(len(request.lengths))}
        if request.fate == "answered":
            assert rows <= set(ran)
        else:
            assert request.fate in ("refused", "dropped", "expired")
            assert not math.isinf(request.deadline), "a request without a deadline was not answered"
            assert request.fate != "refused" or not rows & set(ran)
    for call in calls:
        rows = call.batch.tickets
        assert len(rows) <= policy.max_rows
        assert len(rows) == 1 or call.batch.elements <= policy.max_tokens
        assert all(row.arrived <= call.start < row.deadline for row in rows)
        if len(rows) > 1:
            assert call.start + call.batch.seconds <= min(row.deadline for row in rows) + 1e-9


@settings(max_examples=80, deadline=None)
@given(st.lists(requests, max_size=40), policies, layouts, lane_counts)
def test_whoever_leads_a_call_stands_first_among_those_that_can_be_met(
    asked: list[Request], policy: Policy, layout: Layout, lanes: int
) -> None:
    for call in simulated(asked, policy, layout, lanes):
        leader = call.batch.tickets[0]
        for row in call.waiting:
            if row.rank < leader.rank:
                longest = max(policy.max_seconds, CURVE.seconds(max(policy.max_tokens, row.length), 1))
                # Twice: the correction may have learned from slow calls.
                assert row.deadline < call.start + 2 * MOST_MARGIN * longest, "a row that can be met was passed over"


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 512), st.lists(st.integers(1, 512), min_size=150, max_size=150), layouts, lane_counts)
def test_no_flood_of_high_priority_starves_a_normal_row(
    length: int, lengths: list[int], layout: Layout, lanes: int
) -> None:
    policy = Policy(patience=0.02, head_start=0.05)
    normal = Request(0.0, math.inf, (length,))
    flood = [Request(0.0005 * k, math.inf, (n,), Priority.HIGH) for k, n in enumerate(lengths)]
    calls = simulated([*flood, normal], policy, layout, lanes)
    start = next(call.start for call in calls if any(row.owner is normal for row in call.batch.tickets))
    leaders = [call.batch.tickets[0] for call in calls if call.start < start]
    assert all(leader.arrived <= policy.head_start + policy.patience for leader in leaders)


@settings(max_examples=40, deadline=None)
@given(st.lists(requests, max_size=30), layouts, lane_counts)
def test_a_row_of_high_priority_goes_before_all_normal_ones_of_its_time(
    asked: list[Request], layout: Layout, lanes: int
) -> None:
    # All come within the head start. Company is let in by class too, as far as it fits.
    for request in asked:
        request.deadline = math.inf
    for call in simulated(asked, Policy(), layout, lanes):
        if call.batch.tickets[0].priority is Priority.NORMAL:
            assert all(row.priority is Priority.NORMAL for row in call.waiting)


@settings(max_examples=60, deadline=None)
@given(st.lists(requests, max_size=40), policies, layouts, lane_counts)
def test_nobody_waits_beside_an_idle_lane_but_right_after_a_call_for_company(
    asked: list[Request], policy: Policy, layout: Layout, lanes: int
) -> None:
    calls = simulated(asked, policy, layout, lanes)
    for call in calls:
        ends = [other.end for other in calls if other.end <= call.start]
        first = min(row.arrived for row in call.batch.tickets)
        assert call.start <= max(first, max(ends, default=-math.inf) + policy.linger) + 1e-9
