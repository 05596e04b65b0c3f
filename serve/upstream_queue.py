"""What waits for a place at an upstream: parts of requests, the most urgent first. Used on the event loop only.

How many texts may wait is bounded, as in a model's own queue; how many tokens they have is not known here.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from ..bundle.errors import Overloaded, TooLarge
from .admission import LEAST_RETRY, Limits, Refusal
from .job import Job
from .policy import Policy


@dataclass(eq=False, slots=True)
class Part:
    """Texts of one request that go to an instance together.

    Attributes:
        job: the request.
        texts: which of its texts.
        tried: instances that refused it unrun, by address.
        waiting: whether it is in the queue.
    """

    job: Job
    texts: slice
    tried: set[str] = field(default_factory=set)
    waiting: bool = False

    def __len__(self) -> int:
        return int(self.texts.stop - self.texts.start)


class UpstreamQueue:
    """Parts that wait.

    Args:
        limits: how many texts may.
        policy: who goes first.
        wait: seconds until so many texts are answered that wait or come now.
        refused: told of each refusal.
    """

    def __init__(
        self, limits: Limits, policy: Policy, wait: Callable[[int], float], refused: Callable[[Refusal], None]
    ) -> None:
        self._limits, self._policy, self._wait, self._refused = limits, policy, wait, refused
        self._heap: list[tuple[float, int, Part]] = []
        self._order = itertools.count()
        self._rows = 0

    def __bool__(self) -> bool:
        return self.first() is not None

    def depth(self) -> tuple[int, int]:
        """Texts that wait now; their tokens are not known."""
        return self._rows, 0

    def check_rows(self, rows: int) -> None:
        """Refuse a request of more texts than may ever wait.

        Raises:
            TooLarge: it is one.
        """
        if rows > self._limits.rows:
            self._refused(Refusal.TOO_LARGE)
            raise TooLarge(
                "rows of one request", found=rows, wanted=f"at most {self._limits.rows}", mend="send fewer texts"
            )

    def check(self, job: Job, now: float) -> None:
        """Refuse a request for which there is no room, or which would be answered too late.

        Raises:
            TooLarge: it alone is above the limit.
            Overloaded: there is no room now, or its deadline can't be met behind what waits.
        """
        rows = len(job.question)
        self.check_rows(rows)
        if self._rows + rows > self._limits.rows:
            self._refused(Refusal.QUEUE_ROWS)
            raise self._overloaded("queue is full", f"{self._rows} rows waiting", f"{self._limits.rows}")
        wait = self._wait(self._rows) if self._rows else 0.0
        if wait > job.deadline - now:
            self._refused(Refusal.FORECAST)
            left = f"{max(job.deadline - now, 0.0):.3f} s"
            raise self._overloaded("the deadline can't be met", f"a wait of {wait:.3f} s", left)

    def add(self, part: Part) -> None:
        """Let a part wait."""
        job = part.job
        rank = self._policy.rank(job.accepted, job.deadline, job.question.priority)
        part.waiting = True
        self._rows += len(part)
        heapq.heappush(self._heap, (rank, next(self._order), part))

    def first(self) -> Part | None:
        """The part that is next, which goes on waiting."""
        while self._heap and not self._heap[0][2].waiting:
            heapq.heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def take(self, part: Part) -> None:
        """A part waits no more, whoever has it now."""
        if part.waiting:
            part.waiting = False
            self._rows -= len(part)

    def clear(self) -> list[Part]:
        """All that waited."""
        parts = [part for _, _, part in self._heap if part.waiting]
        for part in parts:
            self.take(part)
        self._heap.clear()
        return parts

    def _overloaded(self, what: str, found: str, wanted: str) -> Overloaded:
        retry = max(self._wait(self._rows), LEAST_RETRY)
        return Overloaded(what, found=found, wanted=f"at most {wanted}", retry_after=retry)
