"""More than the engines can do, on a simulated clock: what is answered in time, what is refused, and whether rightly.

A refusal at the door is *wrong* where the request would have been answered in time among all that was accepted before
it, with every accepted row run to its end and none of them late for its sake. (What comes later can't count: at twice
the capacity half must be refused, and whoever is let in takes the place of another.)
"""

import math
import random
from dataclasses import replace

import pytest

from nlpdeploy.bundle.evidence import LatencyCurve
from nlpdeploy.bundle.specs import Layout
from nlpdeploy.serve.ticket import Priority
from support.scheduling import CURVE, NOISE, Request, Simulation, had_room, noisy, scheduler

SECONDS = 1.5


def length(chance: random.Random) -> int:
    """Tokens of short messages: half have up to 13, one in a hundred over 54."""
    return max(3, min(512, int(chance.lognormvariate(2.6, 0.6))))


def capacity(layout: Layout, lanes: int, curve: LatencyCurve = CURVE) -> float:
    """Rows a second of the engines with work enough at hand."""
    chance = random.Random(3)
    asked = [Request(0.0, math.inf, (length(chance),)) for _ in range(4000)]
    plan = scheduler(curve=curve, layout=layout, lanes=lanes)
    calls = Simulation(plan, lanes, noisy(curve, 0.0), watch=False).run(asked)
    return len(asked) / max(call.end for call in calls)


def poisson(rate: float, allowed: tuple[float, ...], seconds: float = SECONDS) -> list[Request]:
    chance, now, asked = random.Random(1), 0.0, []
    while now < seconds:
        now += chance.expovariate(rate)
        asked.append(Request(now, now + chance.choice(allowed), (length(chance),)))
    return asked


def share(asked: list[Request], *fates: str) -> float:
    return sum(request.fate in fates for request in asked) / len(asked)


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("allowed", [(0.045,), (0.3,), (0.03, 0.3)], ids=["45 ms", "300 ms", "mixed"])
@pytest.mark.parametrize("layout", Layout)
def test_at_twice_the_capacity_the_engines_answer_in_time_what_they_can(
    layout: Layout, allowed: tuple[float, ...], lanes: int
) -> None:
    rows_a_second = capacity(layout, lanes)
    asked = poisson(2 * rows_a_second, allowed)
    calls = Simulation(scheduler(layout=layout, lanes=lanes), lanes, noisy(CURVE, NOISE), watch=False).run(asked)
    assert sum(request.met() for request in asked) >= 0.95 * rows_a_second * SECONDS
    assert all(call.start < row.deadline for call in calls for row in call.batch.tickets)
    late = [request for request in asked if request.fate == "answered" and not request.met()]
    assert len(late) <= 0.01 * len(asked)


@pytest.mark.parametrize("allowed", [(0.045,), (0.03, 0.1)], ids=["45 ms", "mixed"])
def test_hardly_anybody_is_refused_who_could_have_been_answered(allowed: tuple[float, ...]) -> None:
    lanes, chance, wrong = 2, random.Random(9), []

    def refused(request: Request, now: float) -> None:
        if chance.random() < 0.015:
            wrong.append(had_room(simulation, request, now, chance.randrange(2**32)))

    plan = scheduler(layout=Layout.PACKED, lanes=lanes)
    simulation = Simulation(plan, lanes, noisy(CURVE, NOISE), watch=False, refused=refused)
    simulation.run(poisson(2 * capacity(Layout.PACKED, lanes), allowed))
    assert len(wrong) > 50
    assert sum(wrong) <= 0.05 * len(wrong)


@pytest.mark.parametrize("layout", Layout)
def test_most_of_those_who_are_refused_could_be_sent_away_unread(layout: Layout) -> None:
    lanes, unread = 2, []

    def refused(request: Request, now: float) -> None:
        least = max(1, int(0.7 * request.lengths[0]))
        unread.append(plan.hopeless(least, request.deadline, now) is not None)

    plan = scheduler(layout=layout, lanes=lanes)
    simulation = Simulation(plan, lanes, noisy(CURVE, NOISE), watch=False, refused=refused)
    simulation.run(poisson(2 * capacity(layout, lanes), (0.1,)))
    assert len(unread) > 100
    assert sum(unread) >= 0.6 * len(unread)


@pytest.mark.parametrize("layout", Layout)
def test_below_the_capacity_nobody_is_refused_or_dropped(layout: Layout) -> None:
    lanes = 2
    asked = poisson(0.7 * capacity(layout, lanes), (0.045,))
    Simulation(scheduler(layout=layout, lanes=lanes), lanes, noisy(CURVE, NOISE), watch=False).run(asked)
    assert share(asked, "answered") == 1.0
    assert sum(request.met() for request in asked) >= 0.999 * len(asked)


def test_in_overload_those_of_high_priority_are_answered_as_on_an_empty_server() -> None:
    lanes, chance = 2, random.Random(4)
    asked = poisson(2 * capacity(Layout.PACKED, lanes), (0.3,))
    for request in asked:
        if chance.random() < 0.1:
            request.priority = Priority.HIGH
    Simulation(scheduler(layout=Layout.PACKED, lanes=lanes), lanes, noisy(CURVE, NOISE), watch=False).run(asked)
    high = sorted(request.finished - request.arrived for request in asked if request.priority is Priority.HIGH)
    assert high[int(0.99 * len(high))] < 0.030
    assert sum(request.met() for request in asked) >= 0.95 * capacity(Layout.PACKED, lanes) * SECONDS


@pytest.mark.parametrize("allowed", [0.06, 0.25])
def test_irregular_calls_nearly_as_long_as_the_deadlines_lose_no_goodput(allowed: float) -> None:
    long, lanes, layout = LatencyCurve(base=0.002, per_token=4e-4, per_row=0.0, per_square=0.0), 2, Layout.PACKED
    irregular = 0.5
    mean = math.exp(irregular**2 / 2)  # of log-normal times
    rows_a_second = capacity(layout, lanes, long) / mean
    asked = poisson(2 * rows_a_second, (allowed,), seconds=6.0)
    plan = scheduler(curve=long, layout=layout, lanes=lanes)
    Simulation(plan, lanes, noisy(long, irregular), watch=False).run(asked)
    assert sum(request.met() for request in asked) >= 0.95 * rows_a_second * 6.0


@pytest.mark.parametrize("slower", [0.4, 2.5])
def test_a_forecast_far_off_is_mended_by_trying(slower: float) -> None:
    lanes, layout = 2, Layout.PACKED
    rows_a_second = capacity(layout, lanes) / slower
    asked = poisson(2 * rows_a_second, (0.1,))
    truth = noisy(replace(CURVE, base=slower * CURVE.base, per_token=slower * CURVE.per_token), NOISE)
    Simulation(scheduler(layout=layout, lanes=lanes), lanes, truth, watch=False).run(asked)
    assert sum(request.met() for request in asked) >= 0.9 * rows_a_second * SECONDS
