"""What the scheduler handles: waiting rows, and the batches made of them."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


class Priority(enum.IntEnum):
    """How urgent a request is; the lower number goes first, as in the protocol's ``priority`` parameter."""

    HIGH = 1
    NORMAL = 2


@dataclass(eq=False, slots=True)
class Ticket(Generic[T]):
    """One waiting row.

    Attributes:
        length: tokens.
        arrived: when it joined, monotonic seconds.
        deadline: when its answer is worthless; infinity where there is no such time.
        owner: whoever wants the answer.
        index: which of the owner's rows it is.
        priority: of the request.
    """

    length: int
    arrived: float
    deadline: float
    owner: T
    index: int = 0
    priority: Priority = Priority.NORMAL
    rank: float = field(default=math.nan, repr=False)
    """Place in the order of service while it waits: the least is served first."""
    work: float = field(default=0.0, repr=False)
    """Its part of a full batch in seconds of the uncorrected curve."""
    number: int = field(default=-1, repr=False)
    """Place in the order of arrival while it waits; -1 before and after."""


@dataclass(eq=False, slots=True)
class Batch(Generic[T]):
    """The rows of one engine call.

    Attributes:
        tickets: the rows, in the order in which they are laid out; the first one leads.
        elements: size of the call in the curve's units (``runtime.batching.call_size``).
        rows: likewise.
        seconds: forecast of the call.
        end: forecast of its end, monotonic seconds.
        wide: it runs on the engine that has all the cores, and nothing runs beside it.
    """

    tickets: list[Ticket[T]]
    elements: int
    rows: int
    seconds: float
    end: float
    wide: bool = False

    def __len__(self) -> int:
        """Texts in the call."""
        return len(self.tickets)

    def tokens(self) -> int:
        """Tokens of its texts, padding not counted."""
        return sum(ticket.length for ticket in self.tickets)
