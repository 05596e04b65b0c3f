"""What the data plane asks of a model that it serves, wherever its answers are made: here, or in another server."""

from __future__ import annotations

from typing import Protocol

from ..bundle.errors import NlpdeployError, Overloaded
from ..bundle.specs import ModelSpec
from ..wire.tensors import ModelMetadata
from .answers import AnswerForm
from .job import Job
from .metrics import ModelMetrics
from .statistics import Statistics


class Door(Protocol):
    """Where requests are let in."""

    def check_rows(self, rows: int) -> None:
        """Refuse a request of more rows than may ever wait.

        Raises:
            TooLarge: it is one.
        """

    def depth(self) -> tuple[int, int]:
        """Rows and tokens that wait now; tokens as far as they are known here."""


class Served(Protocol):
    """One version of one model at work.

    Its answers come as ``Job.receive``, row by row, and ``Job.rows`` has all rows before the last of them.
    """

    @property
    def name(self) -> str:
        """As callers name it."""

    @property
    def version(self) -> str:
        """As callers name it."""

    @property
    def model(self) -> ModelSpec:
        """Task, labels and limits."""

    @property
    def vocabulary(self) -> int:
        """Number of token ids that a request by tokens may use."""

    @property
    def engine_id(self) -> str:
        """Of the engine that answers."""

    @property
    def digest(self) -> str:
        """The bundle's identity."""

    @property
    def metadata(self) -> ModelMetadata:
        """What it takes and gives."""

    @property
    def answers(self) -> AnswerForm:
        """How its rows' outputs are put into answers."""

    @property
    def metrics(self) -> ModelMetrics:
        """Its counters."""

    @property
    def statistics(self) -> Statistics:
        """Its sums."""

    @property
    def queue(self) -> Door:
        """Where its requests wait."""

    def ready(self) -> bool:
        """Whether it answers."""

    def alive(self) -> bool:
        """Whether it may still come back if it doesn't answer; False where only a restart mends it."""

    def trouble(self) -> str:
        """Why it isn't ready."""

    def idle(self) -> bool:
        """Whether every accepted job is answered."""

    def accept(self, job: Job) -> None:
        """Send a job on its way; it will be settled.

        Raises:
            Overloaded, TooLarge, Unavailable, Unsupported: it was not accepted.
        """

    def hopeless(self, form: str, size: int, deadline: float, now: float) -> Overloaded | None:
        """The refusal, counted, of a message that nobody has read, where it would be refused whatever stands in it.

        Args:
            form: of the message, e.g. ``predict``.
            size: bytes of it; one without a row is not asked about, nor one of high priority.
            deadline: its own.
            now: monotonic seconds.

        Returns:
            The error, to be answered and not raised; None where the message has to be read.
        """

    def answered(self, form: str, size: int, job: Job) -> None:
        """A message of that form and size was this job, which is answered."""

    def release(self, job: Job) -> None:
        """Forget a job that is settled or left alone; what of it has not started never will."""

    def abandon(self, error: NlpdeployError) -> None:
        """Take no more work and answer all that is open with ``error``."""

    def close(self, timeout: float) -> bool:
        """End, waiting so many seconds at most; whether every thread ended."""
