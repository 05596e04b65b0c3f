"""A server in simulated time: arrivals, the scheduler's door and choice, lanes that take noisy times."""

from __future__ import annotations

import copy
import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nlpdeploy.bundle.evidence import LatencyCurve
from nlpdeploy.bundle.specs import Layout
from nlpdeploy.serve.forecast import Forecast
from nlpdeploy.serve.policy import Policy, for_layout
from nlpdeploy.serve.scheduler import Scheduler
from nlpdeploy.serve.ticket import Batch, Priority, Ticket

NOISE = 0.15
"""Spread of an engine call's time about the curve, as a log-normal sigma."""
CURVE = LatencyCurve(base=0.001, per_token=2e-5, per_row=1e-5, per_square=1e-8)


@dataclass(eq=False)
class Request:
    """One request of some rows, and what became of it.

    Attributes:
        arrived: simulated seconds.
        deadline: absolute.
        lengths: tokens of each row.
        priority: of all rows.
        finished: when its last row was answered; infinity where it never was.
        fate: ``waiting``, ``answered``, ``refused`` at the door, ``dropped`` by the scheduler, ``expired``.
    """

    arrived: float
    deadline: float
    lengths: tuple[int, ...]
    priority: Priority = Priority.NORMAL
    fate: str = "waiting"
    finished: float = math.inf
    missing: int = 0

    def met(self) -> bool:
        """Whether it was answered in time."""
        return self.finished <= self.deadline


@dataclass(frozen=True)
class Call:
    """An engine call: when, what, who waited (the batch's own among them), and how many other calls ran beside it."""

    start: float
    end: float
    batch: Batch[Request]
    waiting: tuple[Ticket[Request], ...]
    beside: int


@dataclass
class Simulation:
    """Lanes behind one scheduler.

    Args:
        plan: the scheduler.
        lanes: as the scheduler was told.
        truth: seconds that a call really takes.
        door: whether the scheduler is asked to let requests in that have a deadline.
        watch: whether each call keeps who waited.
        refused: told of each refused request and the time.
    """

    plan: Scheduler[Request]
    lanes: int
    truth: Callable[[Batch[Request]], float]
    door: bool = True
    watch: bool = True
    refused: Callable[[Request, float], None] | None = None
    calls: list[Call] = field(default_factory=list)
    running: list[tuple[float, int, float, Batch[Request]]] = field(default_factory=list)
    waiting: dict[Ticket[Request], None] = field(default_factory=dict)

    def run(self, requests: Sequence[Request], now: float = 0.0) -> list[Call]:
        """All requests to their end; the calls in the order of their starts."""
        coming = sorted(requests, key=lambda request: request.arrived, reverse=True)
        while coming or self.running or len(self.plan):
            while coming and coming[-1].arrived <= now:
                self._arrive(coming.pop(), now)
            while self.running and self.running[0][0] <= now:
                _, _, seconds, batch = heapq.heappop(self.running)
                self._answer(batch, seconds, now)
            if self._start(now):
                continue
            moment = self._next(coming[-1].arrived if coming else math.inf)
            if math.isinf(moment):
                assert not len(self.plan), "rows wait, and nothing will ever wake the scheduler"
                break
            assert moment > now, "the scheduler asks to be woken in the past and does nothing"
            now = moment
        return self.calls

    def _start(self, now: float) -> bool:
        if len(self.running) >= self.lanes:
            return False
        batch = self.plan.next_batch(now)
        self._take_out(now)
        if batch is None:
            return False
        seconds = self.truth(batch)
        waiting = tuple(self.waiting) if self.watch else ()
        self.calls.append(Call(now, now + seconds, batch, waiting, len(self.running)))
        heapq.heappush(self.running, (now + seconds, len(self.calls), seconds, batch))
        for ticket in batch.tickets:
            del self.waiting[ticket]
        return True

    def _next(self, arrival: float) -> float:
        wake = self.plan.wake_at() if len(self.running) < self.lanes else None
        return min(arrival, self.running[0][0] if self.running else math.inf, math.inf if wake is None else wake)

    def _arrive(self, request: Request, now: float) -> None:
        request.missing = len(request.lengths)
        made = [
            Ticket(length, now, request.deadline, request, index, request.priority)
            for index, length in enumerate(request.lengths)
        ]
        if self.door and not math.isinf(request.deadline) and self.plan.refusal(made, now) is not None:
            request.fate = "refused"
            if self.refused:
                self.refused(request, now)
            return
        for ticket in made:
            self.plan.add(ticket)
            self.waiting[ticket] = None

    def _answer(self, batch: Batch[Request], seconds: float, now: float) -> None:
        self.plan.finished(batch, seconds, now)
        for ticket in batch.tickets:
            request = ticket.owner
            request.missing -= 1
            if request.missing == 0 and request.fate == "waiting":
                request.fate, request.finished = "answered", now

    def _take_out(self, now: float) -> None:
        """Who was dropped, and whose time is over: a server's own timers answer these."""
        for ticket in self.plan.take_dropped():
            del self.waiting[ticket]
            ticket.owner.fate = "dropped"
        for ticket in [ticket for ticket in self.waiting if ticket.deadline <= now]:
            self.plan.discard(ticket)
            del self.waiting[ticket]
            ticket.owner.fate = "expired"


def had_room(simulation: Simulation, request: Request, now: float, seed: int, truth: LatencyCurve = CURVE) -> bool:
    """Whether a refused request of one row would have been answered in time, and no accepted one late for it.

    What runs and waits is copied as it stands, with and without the request; every accepted row is run to its end
    whatever its deadline, and nobody comes any more.
    """
    late = []
    for joins in (True, False):
        plan, running, copied = copy.deepcopy((simulation.plan, simulation.running, request))
        if joins:
            copied.fate, copied.missing = "waiting", 1
            plan.add(Ticket(copied.lengths[0], now, copied.deadline, copied, 0, copied.priority))
        waiting = plan.in_order()
        accepted = {ticket.owner: ticket.deadline for ticket in waiting if ticket.owner is not copied}
        for ticket in waiting:
            ticket.deadline = math.inf
        times = noisy(truth, NOISE, seed)
        later = Simulation(plan, simulation.lanes, times, watch=False, running=running, waiting=dict.fromkeys(waiting))
        later.calls.extend(simulation.calls)  # their number breaks ties among those that end at one moment
        later.run([], now)
        if joins and not copied.met():
            return False
        late.append(sum(owner.finished > deadline for owner, deadline in accepted.items()))
    return late[0] <= late[1]


def noisy(curve: LatencyCurve, spread: float, seed: int = 0) -> Callable[[Batch[Request]], float]:
    """Times by a curve, each off by a log-normal factor."""
    chance = random.Random(seed)
    return lambda batch: curve.seconds(batch.elements, batch.rows) * chance.lognormvariate(0.0, spread)


def scheduler(
    policy: Policy | None = None,
    curve: LatencyCurve = CURVE,
    *,
    layout: Layout = Layout.PADDED,
    lanes: int = 1,
    wide: Forecast | None = None,
) -> Scheduler[Request]:
    """A scheduler that forecasts by the curve."""
    chosen = for_layout(policy or Policy(), layout, curve)
    return Scheduler(chosen, Forecast(curve), layout=layout, lanes=lanes, wide=wide)
