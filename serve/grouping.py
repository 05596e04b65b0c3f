"""Who goes along with a batch's leader, by the engine's row layout. Pure.

Packed rows cost nothing but their tokens, so they go in the order of service until the call is full. Padded rows cost
what the longest one costs, so neighbours by length go together for as long as that is forecast to be faster than apart.
Either way those of high priority join first, and nobody joins who might be late with the batch or make one of its rows
late, by the forecast and its margin.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice
from operator import attrgetter
from typing import Generic, TypeVar

from ..bundle.specs import Layout
from ..runtime.batching import call_size
from .forecast import Forecast
from .policy import Policy
from .ticket import Priority, Ticket

T = TypeVar("T")
_length = attrgetter("length")
WINDOW = 128
"""Rows, the next in the order of service, among which a padded batch looks for neighbours: enough for little padding,
and few enough that rows of usual lengths don't overtake the others for long."""
ALIKE = 1 / 8
"""Share of the waiting rows that are near enough in length to make a call of their own with a row. Found by simulation:
more makes for padding, less for many small calls."""
LOOK_AHEAD = 8
"""Rows that don't fit into a packed call and are passed over in search of some that do."""


class Grouping(ABC, Generic[T]):
    """The rows of one model, seen for their lengths.

    Args:
        policy: limits.
        forecast: of one lane.
    """

    layout: Layout

    def __init__(self, policy: Policy, forecast: Forecast) -> None:
        self.policy = policy
        self.forecast = forecast
        self.full = lru_cache(maxsize=None)(self._full)
        """By the tokens of a row: rows of a full call where all are so long, and its seconds on the bare curve."""
        self.shortest = forecast.curve.seconds(*call_size((1,), self.layout))
        """Seconds of the shortest call, on the bare curve."""

    def seconds(self, tokens: int) -> float:
        """Forecast of a call with one row of so many tokens."""
        return self.forecast.seconds(*call_size((tokens,), self.layout))

    @abstractmethod
    def company(self, leader: Ticket[T], in_order: Iterable[Ticket[T]], now: float, budget: int) -> list[Ticket[T]]:
        """The leader and those who go with it.

        Args:
            leader: goes in any case.
            in_order: all that waits, in the order of service.
            now: when the call starts.
            budget: most elements of the call; a single longer row goes alone.
        """

    @abstractmethod
    def _full(self, length: int) -> tuple[int, float]: ...

    def share(self, length: int) -> float:
        """What a row of so many tokens adds to full calls: seconds on the bare curve."""
        rows, seconds = self.full(length)
        return seconds / rows


class Packed(Grouping[T]):
    """One row without padding: in the order of service, until the call is full."""

    layout = Layout.PACKED

    def company(self, leader: Ticket[T], in_order: Iterable[Ticket[T]], now: float, budget: int) -> list[Ticket[T]]:
        """As :meth:`Grouping.company`; a row that doesn't fit is passed over, and leads soon."""
        group, tokens, latest, passed = [leader], leader.length, leader.deadline, 0
        margin = self.forecast.margin
        late = now + margin * self.seconds(budget)  # whoever has until then needs no closer look
        for ticket in in_order:
            if len(group) >= self.policy.max_rows or passed > LOOK_AHEAD or tokens >= budget:
                break
            if ticket is leader:
                continue
            together, until = tokens + ticket.length, min(latest, ticket.deadline)
            if together > budget or (until < late and now + margin * self.seconds(together) > until):
                passed += 1
                continue
            group.append(ticket)
            tokens, latest = together, until
        return group

    def _full(self, length: int) -> tuple[int, float]:
        rows = max(1, min(self.policy.max_tokens // length, self.policy.max_rows))
        return rows, self.forecast.curve.seconds(*call_size((length,) * rows, self.layout))


class Padded(Grouping[T]):
    """Neighbours by length, those of high priority first."""

    layout = Layout.PADDED

    def company(self, leader: Ticket[T], in_order: Iterable[Ticket[T]], now: float, budget: int) -> list[Ticket[T]]:
        """As :meth:`Grouping.company`; nearest length first, while together is faster than apart."""
        window = list(islice(in_order, WINDOW))
        growth = _Growth(leader, now, budget, self.policy, self.forecast, len(window))
        for priority in Priority:
            alike = [ticket for ticket in window if ticket.priority is priority and ticket is not leader]
            growth.take_neighbours(sorted(alike, key=_length))
        return growth.tickets

    def _full(self, length: int) -> tuple[int, float]:
        seconds, policy = self.forecast.curve.seconds, self.policy
        most = max(1, min(policy.max_rows, policy.max_tokens // length))
        # seconds(n rows) = fixed + n * slope, since each further row of one length adds the same.
        fixed = 2 * seconds(length, 1) - seconds(2 * length, 2)
        slope = seconds(length, 1) - fixed
        limit = max(policy.max_seconds, 2 * seconds(length, 1))
        within = most if slope <= 0 else math.floor(max(limit - fixed, 0.0) / slope)
        rows = max(1, min(most, within))
        return rows, seconds(rows * length, rows)


class _Growth(Generic[T]):
    """A padded batch while it grows."""

    def __init__(
        self, leader: Ticket[T], now: float, budget: int, policy: Policy, forecast: Forecast, waiting: int
    ) -> None:
        self.tickets = [leader]
        self._now, self._budget, self._policy, self._forecast = now, budget, policy, forecast
        self._longest = leader.length
        self._spent = forecast.seconds(leader.length, 1)
        self._limit = max(policy.max_seconds, 2 * self._spent)
        self._latest = leader.deadline
        self._company_later = 1 - 1 / max(1.0, waiting * ALIKE)

    def take_neighbours(self, entries: Sequence[Ticket[T]]) -> None:
        """Let rows join, the nearest by length first, until both sides have come to one that doesn't pay."""
        place = bisect_left(entries, self.tickets[0].length, key=_length)
        below = (entries[i] for i in range(place - 1, -1, -1))
        above = (entries[i] for i in range(place, len(entries)))
        shorter, longer = next(below, None), next(above, None)
        while (shorter or longer) and len(self.tickets) < self._policy.max_rows:
            if longer is not None and (shorter is None or self._cheaper(longer)):
                longer = next(above, None) if self._goes_on(longer) else None
            elif shorter is not None:
                shorter = next(below, None) if self._goes_on(shorter) else None

    def _cheaper(self, longer: Ticket[T]) -> bool:
        """What a neighbour adds: a shorter one is itself padded to the longest, a longer one pads everybody."""
        rows = len(self.tickets)
        return longer.length * (rows + 1) - self._longest * rows < self._longest

    def _apart(self, length: int) -> float:
        """What a row would take in another call: of the fixed cost only its part, where many like it wait."""
        alone, twice = self._forecast.seconds(length, 1), self._forecast.seconds(2 * length, 2)
        return alone - (2 * alone - twice) * self._company_later

    def _goes_on(self, newcomer: Ticket[T]) -> bool:
        """Let a row join if it may; False where it doesn't pay, and neither would those farther off on its side."""
        rows, longest = len(self.tickets) + 1, max(self._longest, newcomer.length)
        if longest * rows > self._budget:
            return False
        together = self._forecast.seconds(longest * rows, rows)
        end = self._now + self._forecast.margin * together
        if together > self._limit or end > self._latest:
            return False
        if together > self._spent + self._apart(newcomer.length):
            return False
        if end <= newcomer.deadline:
            self.tickets.append(newcomer)
            self._longest, self._spent = longest, together
            self._latest = min(self._latest, newcomer.deadline)
        return True


def grouping_for(layout: Layout, policy: Policy, forecast: Forecast) -> Grouping[T]:
    """The grouping that an engine's row layout asks for."""
    kind: type[Grouping[T]] = Packed if layout is Layout.PACKED else Padded
    return kind(policy, forecast)
