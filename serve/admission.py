"""The bounded queue of one model, between the encoder threads and the engine workers.

Counts rows from the door on (before they are tokenised) and tokens once they are known, says no at once where waiting
is useless, and keeps withdrawn work from running. All methods may be called from any thread.
"""

from __future__ import annotations

import enum
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..bundle.errors import Overloaded, TooLarge, Unavailable
from .job import Job
from .policy import Policy
from .scheduler import Scheduler
from .ticket import Batch, Ticket

LEAST_RETRY = 0.010
"""Seconds; a shorter hint would only make the caller spin."""


class Refusal(enum.StrEnum):
    """Why work was not done."""

    QUEUE_ROWS = "queue_rows"
    QUEUE_TOKENS = "queue_tokens"
    TOO_LARGE = "too_large"
    FORECAST = "deadline_forecast"
    EXPIRED = "deadline_passed"
    UNREACHABLE = "deadline_unreachable"
    CANCELLED = "cancelled"
    NOT_READY = "not_ready"
    DRAINING = "draining"


@dataclass(frozen=True)
class Limits:
    """How much may wait for one model.

    Attributes:
        rows: most rows (texts), tokenised or not; also the most of one request.
        tokens: most tokens; also the most of one request.
        stuck: seconds past its forecast after which an engine call counts as hanging.
    """

    rows: int = 4096
    tokens: int = 262_144
    stuck: float = 10.0


class AdmissionQueue:
    """Rows that wait for an engine.

    Args:
        scheduler: chooses; used under this queue's lock only.
        limits: how much may wait.
        refused: told of each refusal at the door.
        dropped: told of each job whose deadline can't be met any more: nothing more of it will run. Called on the
            engines' threads, this queue's lock held.
    """

    def __init__(
        self,
        scheduler: Scheduler[Job],
        limits: Limits,
        refused: Callable[[Refusal], None],
        dropped: Callable[[Job], None],
    ) -> None:
        self._scheduler = scheduler
        self._limits = limits
        self._refused = refused
        self._dropped = dropped
        self._changed = threading.Condition()
        self._held = 0
        self._closed: Refusal | None = None

    def depth(self) -> tuple[int, int]:
        """Rows and tokens that wait now; rows include those still being tokenised."""
        return self._held, self._scheduler.tokens

    def retune(self, policy: Policy) -> None:
        """Take another policy, or the forecast's new curve, before any job is let in."""
        with self._changed:
            self._scheduler.retune(policy)

    def stuck(self, now: float) -> bool:
        """Whether all engine calls hang and what waits, or comes, finds no lane free."""
        with self._changed:
            return self._scheduler.stuck(now, self._limits.stuck)

    def check_rows(self, rows: int) -> None:
        """Refuse a request of more rows than may ever wait, before anything is made for each of them.

        Raises:
            TooLarge: it is one.
        """
        if rows > self._limits.rows:
            self._refused(Refusal.TOO_LARGE)
            raise TooLarge(
                "rows of one request", found=rows, wanted=f"at most {self._limits.rows}", mend="send fewer texts"
            )

    def check_tokens(self, tokens: int) -> None:
        """Refuse a request of more tokens than may ever wait.

        Raises:
            TooLarge: it is one.
        """
        limit = self._limits.tokens
        if tokens > limit:
            self._refused(Refusal.TOO_LARGE)
            raise TooLarge("tokens of one request", found=tokens, wanted=f"at most {limit}", mend="send fewer texts")

    def reserve(self, job: Job) -> None:
        """Let a job in, its rows not tokenised yet.

        Raises:
            TooLarge: it alone is above the limit.
            Overloaded: there is no room now.
            Unavailable: the queue is closed.
        """
        rows = len(job.question)
        self.check_rows(rows)
        with self._changed:
            self._check_open()
            if self._held + rows > self._limits.rows:
                self._refused(Refusal.QUEUE_ROWS)
                raise self._full_of_rows(time.monotonic())
            self._held += rows
            job.queued = rows

    def hopeless(self, length: int, deadline: float, now: float) -> Overloaded | None:
        """The refusal, counted, of a request that nobody has read, if it must be refused whatever stands in it.

        Args:
            length: tokens that its first row has at least; its priority is normal.
            deadline: its own.
            now: monotonic seconds.

        Returns:
            The error, to be answered and not raised; None where the request has to be read.
        """
        with self._changed:
            if self._closed is not None:
                return None
            if self._held >= self._limits.rows:
                self._refused(Refusal.QUEUE_ROWS)
                return self._full_of_rows(now)
            found = self._scheduler.hopeless(length, deadline, now)
            if found is None:
                return None
            self._refused(Refusal.FORECAST)
            return _too_late(found[0], deadline - now, found[1])

    def submit(self, job: Job, now: float) -> None:
        """Queue a reserved job, ``job.rows`` filled. One that was withdrawn meanwhile is left out.

        Raises:
            TooLarge: it alone is above the limit of tokens.
            Overloaded: no room, or the forecast says that its deadline can't be met behind the rows that wait.
            Unavailable: the queue is closed.
        """
        tokens = sum(map(len, job.rows))
        with self._changed:
            if job.withdrawn:
                return
            self._check_open()
            self._check_tokens(tokens)
            priority = job.question.priority
            tickets = [Ticket(len(row), now, job.deadline, job, i, priority) for i, row in enumerate(job.rows)]
            self._check_deadline(tickets, now)
            job.tickets = tickets
            for ticket in job.tickets:
                self._scheduler.add(ticket)
            self._changed.notify()

    def withdraw(self, job: Job) -> None:
        """Forget what of a job has not started; afterwards none of it will."""
        with self._changed:
            self._withdraw(job)

    def take(self) -> Batch[Job] | None:
        """Wait for the next batch to run; None once the queue is closed. :meth:`finished` follows each batch."""
        with self._changed:
            while self._closed is None:
                now = time.monotonic()
                batch = self._scheduler.next_batch(now)
                if batch:
                    self._start(batch, now)
                for job in {ticket.owner: None for ticket in self._scheduler.take_dropped()}:
                    self._withdraw(job)
                    self._dropped(job)
                if batch:
                    if len(self._scheduler):
                        self._changed.notify()  # what is left is for another lane, which may be asleep
                    return batch
                wake = self._scheduler.wake_at()
                self._changed.wait(None if wake is None else max(wake - now, 0.0))
            return None

    def finished(self, batch: Batch[Job], seconds: float | None) -> None:
        """A worker has run a batch in so many seconds; None where it failed."""
        with self._changed:
            self._scheduler.finished(batch, seconds, time.monotonic())

    def close(self, why: Refusal) -> None:
        """Take nothing more, for the first reason that is told, and let the workers go."""
        with self._changed:
            self._closed = self._closed or why
            self._changed.notify_all()

    # -- inside, the lock held ----------------------------------------------------------------------------------------

    def _withdraw(self, job: Job) -> None:
        job.withdrawn = True
        self._held -= job.queued
        job.queued = 0
        for ticket in job.tickets:
            self._scheduler.discard(ticket)
        job.tickets = []  # they point back at the job: without the circle both go at once

    def _start(self, batch: Batch[Job], now: float) -> None:
        for ticket in batch.tickets:
            job = ticket.owner
            job.queued -= 1
            job.dispatched_at = job.dispatched_at or now
        self._held -= len(batch)

    def _check_open(self) -> None:
        if self._closed is not None:
            self._refused(self._closed)
            raise Unavailable("the model takes no more requests")

    def _check_tokens(self, tokens: int) -> None:
        self.check_tokens(tokens)
        limit = self._limits.tokens
        if self._scheduler.tokens + tokens > limit:
            self._refused(Refusal.QUEUE_TOKENS)
            drained = self._scheduler.drain_seconds(time.monotonic())
            raise _overloaded("queue is full", f"{self._scheduler.tokens} tokens waiting", f"{limit}", drained)

    def _check_deadline(self, tickets: Sequence[Ticket[Job]], now: float) -> None:
        if not tickets or math.isinf(tickets[0].deadline):
            return
        wait = self._scheduler.refusal(tickets, now)
        if wait is not None:
            self._refused(Refusal.FORECAST)
            raise _too_late(wait, tickets[0].deadline - now, self._scheduler.drain_seconds(now))

    def _full_of_rows(self, now: float) -> Overloaded:
        return _overloaded(
            "queue is full", f"{self._held} rows waiting", f"{self._limits.rows}", self._scheduler.drain_seconds(now)
        )


def _too_late(wait: float, left: float, drained: float) -> Overloaded:
    return _overloaded("the deadline can't be met", f"a wait of {wait:.3f} s", f"{max(left, 0.0):.3f} s", drained)


def _overloaded(what: str, found: str, wanted: str, drained: float) -> Overloaded:
    """With a hint to come back once all that runs and waits is done."""
    return Overloaded(what, found=found, wanted=f"at most {wanted}", retry_after=max(drained, LEAST_RETRY))
