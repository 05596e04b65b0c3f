"""The one object that carries a request from the door to its answer, and is settled exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..bundle.errors import NlpdeployError
from ..runtime.tasks import Scored
from ..runtime.text import Row
from .ticket import Priority, Ticket


@dataclass(frozen=True)
class Question:
    """What is asked, checked against the model: texts, or rows of tokens.

    Attributes:
        texts: one for each row asked; empty where rows are given.
        pairs: second texts of pairs; None for a model of single texts.
        rows: tokens sent by the caller instead of text.
        outputs: names of the outputs wanted, in order.
        priority: who goes first.
    """

    texts: Sequence[str]
    pairs: Sequence[str] | None
    rows: Sequence[Row] | None
    outputs: tuple[str, ...]
    priority: Priority = Priority.NORMAL

    def __len__(self) -> int:
        return len(self.texts) if self.rows is None else len(self.rows)


@dataclass(eq=False, slots=True)
class Job:
    """A question on its way.

    It is settled on the event loop only, by the first of: its last row's outputs, a failure, its deadline, its caller
    leaving. What comes later is dropped.

    Attributes:
        question: what is asked.
        settled: done when the answer can be made from ``scored``; failed with an error's kind otherwise.
        accepted: monotonic seconds, as all times here.
        deadline: when the answer is worthless; infinity where there is no such time.
        rows: tokens, once encoded.
        tickets: its rows in the queue, once submitted.
        queued: rows that the queue counts for it; the queue's own.
        withdrawn: no row of it may run any more; the queue's own.
        scored: each row's outputs by its number, in the order in which batches brought them.
    """

    question: Question
    settled: asyncio.Future[None]
    accepted: float
    deadline: float
    rows: Sequence[Row] = ()
    tickets: list[Ticket[Job]] = field(default_factory=list)
    queued: int = 0
    withdrawn: bool = False
    scored: dict[int, Scored] = field(default_factory=dict)
    encoded_at: float = 0.0
    dispatched_at: float = 0.0
    finished_at: float = 0.0

    def receive(self, index: int, scored: Scored, now: float) -> None:
        """Take one row's outputs; the last missing one settles the job."""
        if self.settled.done():
            return
        self.scored[index] = scored
        if len(self.scored) == len(self.question):
            self.finished_at = now
            self.settled.set_result(None)

    def fail(self, error: NlpdeployError) -> None:
        """Settle with an error, unless it is settled already."""
        if not self.settled.done():
            self.settled.set_exception(error)

    def stages(self, now: float) -> dict[str, float]:
        """Seconds of each stage of an answered job; they add up to the time since it was accepted."""
        return {
            "encode": self.encoded_at - self.accepted,
            "queue": self.dispatched_at - self.encoded_at,
            "infer": self.finished_at - self.dispatched_at,
            "decode": now - self.finished_at,
        }
