"""Waiting rows in the order of service, with sums of their work, so that a place in the order is a forecast of time.

Rows lie in slots of like rank. A slot knows the work of its rows and their earliest deadline, which makes the walk over
all that waits as short as the number of slots.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Generic, TypeVar

from .ticket import Ticket

T = TypeVar("T")
WIDTH = 0.008
"""Seconds of rank that share a slot: a few rows under light load, some dozens at the limit of a fast engine."""


class Agenda(Generic[T]):
    """Rows by rank, then by number."""

    def __init__(self) -> None:
        self.work = 0.0
        self._slots: dict[int, _Slot[T]] = {}
        self._keys: list[int] = []

    def add(self, ticket: Ticket[T]) -> None:
        """Put a row in its place; rank, work and number are set."""
        key = int(ticket.rank // WIDTH)
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = _Slot()
            insort(self._keys, key)
        slot.add(ticket)
        self.work += ticket.work

    def remove(self, ticket: Ticket[T]) -> None:
        """Take a row away that is there."""
        key = int(ticket.rank // WIDTH)
        slot = self._slots[key]
        slot.remove(ticket)
        self.work -= ticket.work
        if not slot.entries:
            del self._slots[key]
            del self._keys[bisect_left(self._keys, key)]
            if not self._keys:
                self.work = 0.0  # without the dust of many sums

    def __iter__(self) -> Iterator[Ticket[T]]:
        """Rows in order; none may be added or removed meanwhile."""
        for key in self._keys:
            for _, _, ticket in self._slots[key].entries:
                yield ticket

    def ahead(self, rank: float) -> float:
        """Work of the rows that are served before one that comes now with this rank."""
        place = bisect_left(self._keys, int(rank // WIDTH))
        work = sum([self._slots[key].work for key in self._keys[:place]])
        slot = self._slots.get(int(rank // WIDTH))
        return work + slot.ahead(rank) if slot else work

    def behind(self, rank: float, last: float) -> Iterator[tuple[float, float, float]]:
        """The rows that are served after one that comes now with this rank, up to the rank ``last``, slot by slot.

        Yields:
            Work of a slot's rows, that of its first one, and their earliest deadline, which is mostly the first one's.
        """
        key = int(rank // WIDTH)
        end = math.inf if math.isinf(last) else last // WIDTH
        for other in self._keys[bisect_left(self._keys, key) : bisect_right(self._keys, end)]:
            slot = self._slots[other]
            if other > key:
                yield slot.work, slot.entries[0][2].work, slot.earliest()
                continue
            for ticket in slot.behind(rank):
                yield ticket.work, ticket.work, ticket.deadline


class _Slot(Generic[T]):
    __slots__ = ("_earliest", "entries", "work")

    def __init__(self) -> None:
        self.entries: list[tuple[float, int, Ticket[T]]] = []
        self.work = 0.0
        self._earliest = math.inf  # nan: not known any more

    def add(self, ticket: Ticket[T]) -> None:
        insort(self.entries, (ticket.rank, ticket.number, ticket))
        self.work += ticket.work
        if ticket.deadline < self._earliest:
            self._earliest = ticket.deadline

    def remove(self, ticket: Ticket[T]) -> None:
        del self.entries[bisect_left(self.entries, (ticket.rank, ticket.number))]
        self.work -= ticket.work
        if ticket.deadline <= self._earliest:
            self._earliest = math.nan

    def earliest(self) -> float:
        if math.isnan(self._earliest):
            self._earliest = min(ticket.deadline for _, _, ticket in self.entries)
        return self._earliest

    def ahead(self, rank: float) -> float:
        return sum([ticket.work for _, _, ticket in self.entries[: self._place(rank)]])

    def behind(self, rank: float) -> list[Ticket[T]]:
        return [ticket for _, _, ticket in self.entries[self._place(rank) :]]

    def _place(self, rank: float) -> int:
        # A row that comes now has a higher number than all others of its rank.
        return bisect_right(self.entries, (rank, math.inf))
