"""One served model: its queue, its engine workers and its open jobs, from acceptance to settlement."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from ..bundle.errors import DeadlineExceeded, EngineFailed, NlpdeployError, Overloaded, Unavailable
from ..runtime.predictor import Predictor, golden_row
from ..runtime.text import Row
from .admission import AdmissionQueue, Limits, Refusal
from .answers import AnswerForm
from .calibration import measure
from .engine_facts import entry_of, metadata_of
from .floors import TokenFloors
from .forecast import Forecast
from .job import Job
from .metrics import Metrics
from .policy import Policy, for_layout
from .scheduler import Scheduler
from .statistics import Statistics
from .tokenising import is_short, next_rows
from .worker import EngineWorker, Outcome

T = TypeVar("T")
log = logging.getLogger(__name__)

WARM_SECONDS = 60.0
"""Longest wait of an encoder thread for the others at the start, when none of them has anything else to do."""


@dataclass(frozen=True)
class Capacity:
    """How one model is run.

    Attributes:
        limits: of its queue.
        policy: of its batches.
        encoder_threads: tokenising threads of the server, for all its models.
    """

    limits: Limits = field(default_factory=Limits)
    policy: Policy = field(default_factory=Policy)
    encoder_threads: int = 2


class ServedModel:
    """One model at work. Made and used on the event loop, but for what encoder and engine threads call.

    Args:
        predictor: the loaded model.
        version: as callers name it.
        capacity: limits and policy.
        encoders: threads that tokenise.
        metrics: of the server.
    """

    def __init__(
        self, predictor: Predictor, version: str, capacity: Capacity, encoders: ThreadPoolExecutor, metrics: Metrics
    ) -> None:
        self.predictor = predictor
        self.name = predictor.manifest.name
        self.version = version
        self.model = predictor.model
        self.engine_id = predictor.engine.id
        self.digest = predictor.manifest.digest
        self.answers = AnswerForm(predictor.model)
        self.vocabulary = predictor.encoder.vocabulary_size
        self.entry = entry = entry_of(predictor)
        self.forecast = forecast = Forecast(entry.curve if entry else None)
        layout = predictor.engine.layout
        self._wished = capacity.policy
        self.policy = for_layout(capacity.policy, layout, forecast.curve)
        self.wide_forecast = Forecast(forecast.curve) if predictor.wide else None
        self.metrics = metrics.for_model(self.name, version, self.engine_id)
        self.statistics = Statistics()
        self.floors = TokenFloors()
        lanes = len(predictor.lanes)
        scheduler: Scheduler[Job] = Scheduler(
            self.policy, forecast, layout=layout, lanes=lanes, wide=self.wide_forecast
        )
        self.queue = AdmissionQueue(
            scheduler, capacity.limits, self.metrics.refused, lambda job: self._call(self._drop, job)
        )
        self._encoders = encoders
        self._loop = asyncio.get_running_loop()
        self._open: set[Job] = set()
        self._failure: NlpdeployError | None = None
        self._workers = [
            EngineWorker(
                engine,
                self.model,
                self.queue,
                wide=predictor.wide,
                deliver=lambda outcome: self._call(self._settle, outcome),
                died=lambda error: self._call(self._give_up, error),
            )
            for engine in predictor.lanes
        ]
        self.metadata = metadata_of(self, entry)
        self._describe()
        self.metrics.watch(
            depth=self.queue.depth,
            open_requests=lambda: len(self._open),
            ready=self.ready,
            correction=lambda: forecast.correction,
        )
        for worker in self._workers:
            worker.start()

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"

    def calibrate(self) -> None:
        """Measure what calls take here, before any request is let in; without golden samples nothing is measured.

        The curve from export is corrected; an engine that has none, and the wide one, get their own. One that fails is
        left as it was: requests will show it.
        """
        samples = [golden_row(sample.input_ids, sample.token_type_ids) for sample in self.predictor.manifest.golden]
        if not samples:
            return
        try:
            measured = measure(self.predictor.lanes, samples, self.model)
            if self.entry and self.entry.curve:
                self.forecast.correct(measured)
            else:
                self.forecast.fit(measured)
            if self.predictor.wide and self.wide_forecast:
                self.wide_forecast.fit(measure([self.predictor.wide], samples, self.model))
        except NlpdeployError as error:
            log.warning("calls of %s could not be timed: %s", self, error)
        layout = self.predictor.engine.layout
        self.policy = for_layout(self._wished, layout, self.forecast.curve, self.forecast.correction)
        self.queue.retune(self.policy)
        self._describe()

    def ready(self) -> bool:
        """Whether it answers: no worker has ended, and not every lane hangs in a call."""
        working = self.alive() and all(worker.alive() for worker in self._workers)
        return working and not self.queue.stuck(time.monotonic())

    def alive(self) -> bool:
        """Whether no worker has ended before its queue was closed: one that has never comes back."""
        return self._failure is None

    def trouble(self) -> str:
        """Why it isn't ready."""
        return "its engine hangs in a call" if self.alive() else "its engine has stopped; restart the server"

    def idle(self) -> bool:
        """Whether every accepted job is answered."""
        return not self._open

    def accept(self, job: Job) -> None:
        """Send a job on its way; it will be settled. Short texts are tokenised here, others by the encoder threads.

        Raises:
            Overloaded, TooLarge, Unavailable: it was not accepted.
            InvalidInput, EngineFailed: its short texts can't be encoded.
        """
        if self._failure is not None:
            raise Unavailable(f"model {self}", found=self._failure.what, mend="restart the server")
        self.queue.reserve(job)
        self._open.add(job)
        if is_short(job.question):
            self._encode(job)
        else:
            self._encoders.submit(self._encode_aside, job)

    def hopeless(self, form: str, size: int, deadline: float, now: float) -> Overloaded | None:
        """See ``served.Served``: by what goes before it, and the fewest tokens that such a message ever had of late."""
        if self._failure is not None:
            return None
        return self.queue.hopeless(self.floors.floor(form, size), deadline, now)

    def answered(self, form: str, size: int, job: Job) -> None:
        """See ``served.Served``."""
        if job.rows:
            self.floors.see(form, size, len(job.rows[0]))

    def release(self, job: Job) -> None:
        """Forget a job that is settled or left alone; what of it has not started never will."""
        self.queue.withdraw(job)
        self._open.discard(job)

    def abandon(self, error: NlpdeployError) -> None:
        """Take no more work and answer all that is open with ``error``."""
        self.queue.close(Refusal.NOT_READY if self._failure else Refusal.DRAINING)
        for job in tuple(self._open):
            job.fail(error)

    def close(self, timeout: float) -> bool:
        """Let the workers end, waiting so many seconds for all, and free the engines; whether all ended."""
        self.queue.close(Refusal.DRAINING)
        end = time.monotonic() + timeout
        ended = all(worker.join(max(end - time.monotonic(), 0.0)) for worker in self._workers)
        if ended:
            self.predictor.close()
        return ended

    # -- on encoder threads -------------------------------------------------------------------------------------------

    def warm(self, all_here: threading.Barrier) -> None:
        """Make this thread's copy of the tokenizer, once every encoder thread is at it."""
        all_here.wait(timeout=WARM_SECONDS)
        self.predictor.encoder.encode([""])

    def _encode_aside(self, job: Job) -> None:
        try:
            self._encode(job)
        except NlpdeployError as error:
            self._call(job.fail, error)
        except BaseException as error:  # noqa: BLE001  (the caller gets an answer, whatever it is)
            self._call(job.fail, self._encoder_failed(error))

    # -- on either ----------------------------------------------------------------------------------------------------

    def _encode(self, job: Job) -> None:
        """Tokenise a part of a job: the rest goes to the end of the line, and nothing more is done for who has left."""
        if job.withdrawn:
            return
        job.rows = job.question.rows or [*job.rows, *self._next_rows(job)]
        if len(job.rows) < len(job.question):
            self.queue.check_tokens(sum(map(len, job.rows)))
            self._encoders.submit(self._encode_aside, job)
            return
        job.encoded_at = time.monotonic()
        self.queue.submit(job, job.encoded_at)

    def _next_rows(self, job: Job) -> list[Row]:
        try:
            return next_rows(job, len(job.rows), self.predictor)
        except (NlpdeployError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  (a panic of the tokenizer's Rust is no Exception)
            raise self._encoder_failed(error) from None

    def _encoder_failed(self, error: BaseException) -> EngineFailed:
        """Not with the error's message: a text may stand in it."""
        log.error("encoder of %s raised %s", self, type(error).__name__)
        return EngineFailed(f"encoder raised {type(error).__name__}")

    def _describe(self) -> None:
        self.metrics.describe(
            digest=self.digest,
            task=self.model.task.value,
            precision=self.entry.precision if self.entry else "fp32",
            layout=str(self.predictor.engine.layout),
            lanes=len(self.predictor.lanes),
            token_budget=self.policy.max_tokens,
        )
        if (chosen := self.predictor.layout_choice) is not None:
            self.metrics.threads(lane=chosen.threads, wide=chosen.wide)

    def _call(self, function: Callable[[T], None], argument: T) -> None:
        try:
            self._loop.call_soon_threadsafe(function, argument)
        except RuntimeError:
            log.debug("the event loop is closed; nobody waits any more")

    # -- on the event loop, called by the worker ----------------------------------------------------------------------

    def _settle(self, outcome: Outcome) -> None:
        try:
            self._hand_on(outcome)
        except Exception as error:  # a bug; nobody may be left to wait for a deadline
            log.error("answers of %s could not be handed on", self, exc_info=error)
            failure = EngineFailed(f"answers of model {self} could not be handed on", found=type(error).__name__)
            for ticket in outcome.batch.tickets:
                ticket.owner.fail(failure)

    def _hand_on(self, outcome: Outcome) -> None:
        batch, now = outcome.batch, time.monotonic()
        self.metrics.ran(outcome.seconds, len(batch), batch.elements, batch.tokens())
        if outcome.scored is None:
            error = outcome.error or EngineFailed("engine gave no logits")
            log.error("batch of %d rows failed on %s: %s", len(batch), self, error, exc_info=error.__cause__)
            for ticket in batch.tickets:
                ticket.owner.fail(error)
            return
        self.statistics.ran(len(batch), outcome.seconds)
        for ticket, scored in zip(batch.tickets, outcome.scored, strict=True):
            if scored is not None:
                ticket.owner.receive(ticket.index, scored, now)
            else:
                ticket.owner.fail(EngineFailed("NaN or infinity in the logits", found=f"row {ticket.index}"))

    def _drop(self, job: Job) -> None:
        if not job.settled.done():
            self.metrics.refused(Refusal.UNREACHABLE)
            allowed = max(job.deadline - job.accepted, 0.0)
            found = f"more than {allowed:.3f} s by the forecast"
            job.fail(DeadlineExceeded("the request can't be answered in time any more", found=found))

    def _give_up(self, error: BaseException) -> None:
        log.critical("worker of %s ended", self, exc_info=error)
        self._failure = EngineFailed(f"worker of model {self} ended", found=type(error).__name__)
        self.abandon(self._failure)
