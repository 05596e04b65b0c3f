"""Which waiting rows go into the next engine call. Pure policy: the clock is an argument; no model, no threads.

Each row has a *due* time: the earlier of its deadline and its arrival plus the policy's patience. The row with the
earliest due time leads the next batch, so nobody starves: only rows that arrive within a row's patience can ever come
before it. The leader takes its neighbours by length along for as long as running them together is forecast to be
faster than apart, within the budgets.

An engine that has just answered many clients would take the first of them back alone while the others are on their
way. So a batch lingers, but only where company is likely: right after a batch of more than twice as many rows. Any
other row that finds an engine idle starts at once, whatever the other engines do: rows that come while all are busy
gather by themselves.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .forecast import Forecast

T = TypeVar("T")


@dataclass(frozen=True)
class Policy:
    """The limits of a batch and of the waiting for it.

    Attributes:
        max_tokens: budget of a batch in padded elements (rows x longest), which bounds the memory of a call; a single
            longer row goes alone.
        max_rows: most rows of a batch.
        max_seconds: a batch grows no further once its forecast passes this, so that the rows behind it don't wait long.
        linger: longest wait for company, seconds; the policy waits less where company saves less.
        patience: after this many seconds a row goes before all later ones, whatever their deadlines.
    """

    max_tokens: int = 4096
    max_rows: int = 32
    max_seconds: float = 0.030
    linger: float = 0.0015
    patience: float = 0.100


@dataclass(eq=False, slots=True)
class Ticket(Generic[T]):
    """One waiting row.

    Attributes:
        length: tokens.
        arrived: when it joined, monotonic seconds.
        deadline: when its answer is worthless; infinity where there is no such time.
        owner: whoever wants the answer.
        index: which of the owner's rows it is.
    """

    length: int
    arrived: float
    deadline: float
    owner: T
    index: int = 0
    number: int = field(default=-1, repr=False)
    """Place in the order of arrival while it waits; -1 before and after."""


class Scheduler(Generic[T]):
    """The waiting rows of one model and the choice among them.

    Args:
        policy: limits.
        forecast: of the engine; told of every finished call.
    """

    def __init__(self, policy: Policy, forecast: Forecast) -> None:
        self.policy = policy
        self.forecast = forecast
        self.tokens = 0
        self._by_length: list[tuple[int, int, Ticket[T]]] = []
        self._by_due: list[tuple[float, int, Ticket[T]]] = []
        self._numbers = 0
        self._last_rows = 0
        self._last_finish = -math.inf

    def __len__(self) -> int:
        """Rows that wait."""
        return len(self._by_length)

    def add(self, ticket: Ticket[T]) -> None:
        """Let a row wait."""
        self._numbers += 1
        ticket.number = self._numbers
        due = min(ticket.deadline, ticket.arrived + self.policy.patience)
        insort(self._by_length, (ticket.length, ticket.number, ticket))
        heapq.heappush(self._by_due, (due, ticket.number, ticket))
        self.tokens += ticket.length

    def discard(self, ticket: Ticket[T]) -> None:
        """Take a row away unrun; one that doesn't wait is left as it is."""
        if ticket.number >= 0:
            del self._by_length[self._place(ticket)]
            ticket.number = -1
            self.tokens -= ticket.length

    def next_batch(self, now: float) -> list[Ticket[T]]:
        """The rows to run now, which stop waiting; empty where nothing waits or company is worth a wait.

        Rows whose deadline has passed are dropped, never returned: their owners are answered elsewhere. Who runs the
        batch calls :meth:`finished` afterwards.
        """
        leader = self._leader(now)
        if leader is None or now < self._start_time():
            return []
        batch = self._grow(leader, now)
        for ticket in batch:
            self.discard(ticket)
        return batch

    def wake_at(self) -> float | None:
        """After an empty :meth:`next_batch`: when to ask again if no row comes before; None where nothing waits."""
        return self._start_time() if self._by_length else None

    def finished(self, batch: list[Ticket[T]], seconds: float | None, now: float) -> None:
        """An engine has run ``batch`` in ``seconds`` (None where it failed, which says nothing of its speed)."""
        self._last_rows = len(batch)
        self._last_finish = now
        if seconds is not None:
            self.forecast.observe(elements(batch), len(batch), seconds)

    def backlog_seconds(self, *, more_tokens: int = 0, more_rows: int = 0) -> float:
        """Forecast of the time that the waiting rows, and so many more, take one engine."""
        return self.forecast.backlog(
            self.tokens + more_tokens,
            len(self) + more_rows,
            max_tokens=self.policy.max_tokens,
            max_rows=self.policy.max_rows,
        )

    def batch_seconds(self, batch: list[Ticket[T]]) -> float:
        """Forecast of one call."""
        return self.forecast.seconds(elements(batch), len(batch))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _place(self, ticket: Ticket[T]) -> int:
        return bisect_left(self._by_length, (ticket.length, ticket.number))

    def _leader(self, now: float) -> Ticket[T] | None:
        while self._by_due:
            _, number, ticket = self._by_due[0]
            if ticket.number == number and ticket.deadline > now:
                return ticket
            heapq.heappop(self._by_due)
            self.discard(ticket)
        return None

    def _start_time(self) -> float:
        """When the waiting rows may start: -inf for at once."""
        policy = self.policy
        waiting = len(self._by_length)
        if waiting >= policy.max_rows or self.tokens >= policy.max_tokens or 2 * waiting >= self._last_rows:
            return -math.inf
        due, _, leader = self._by_due[0]
        alone = self.forecast.seconds(leader.length, 1)
        # A companion saves the engine one call's fixed cost; waiting longer than that would lose more than it wins.
        linger = min(policy.linger, 2 * alone - self.forecast.seconds(2 * leader.length, 2))
        return min(self._last_finish + linger, due - alone)

    def _grow(self, leader: Ticket[T], now: float) -> list[Ticket[T]]:
        """The leader and its neighbours by length, nearest first, while together is faster than apart."""
        place = self._place(leader)
        below = self._alive(range(place - 1, -1, -1), now)
        above = self._alive(range(place + 1, len(self._by_length)), now)
        shorter, longer = next(below, None), next(above, None)
        batch, longest, spent = [leader], leader.length, self.forecast.seconds(leader.length, 1)
        while (shorter or longer) and len(batch) < self.policy.max_rows:
            rows = len(batch) + 1
            # What a neighbour adds: a shorter one is itself padded to the longest, a longer one pads everybody.
            if longer and (shorter is None or longer.length * rows - longest * len(batch) < longest):
                newcomer, side = longer, above
            else:
                newcomer, side = shorter or leader, below
            together = self._together(max(longest, newcomer.length), rows, spent, newcomer)
            # Past a refused neighbour all on its side are farther off, and would be refused too.
            following = None if together is None else next(side, None)
            if together is not None:
                batch.append(newcomer)
                longest, spent = max(longest, newcomer.length), together
            if side is above:
                longer = following
            else:
                shorter = following
        return batch

    def _alive(self, places: range, now: float) -> Iterator[Ticket[T]]:
        return (ticket for place in places if (ticket := self._by_length[place][2]).deadline > now)

    def _together(self, longest: int, rows: int, spent: float, newcomer: Ticket[T]) -> float | None:
        """Forecast of the batch with the newcomer; None where it breaks a budget or is slower than apart."""
        if longest * rows > self.policy.max_tokens:
            return None
        together = self.forecast.seconds(longest * rows, rows)
        if together > self.policy.max_seconds or together > spent + self.forecast.seconds(newcomer.length, 1):
            return None
        return together


def elements(batch: list[Ticket[T]]) -> int:
    """Elements of the padded tensor: rows x longest."""
    return len(batch) * max(ticket.length for ticket in batch)
