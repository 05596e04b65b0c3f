"""The thread of one lane: takes a batch, runs it on its engine, hands the outcome on, until the queue is closed.

A batch that fails fails alone, whatever the engine raised. An error outside the engine's call is a bug, or an
interpreter that gives up: the thread ends, says so, and its owner answers everything that is still open.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..bundle.errors import EngineFailed, NlpdeployError
from ..bundle.specs import ModelSpec
from ..runtime.batching import lay_out
from ..runtime.engine import Engine
from ..runtime.tasks import Floats, Scored, finite_rows, score_rows, shaped_logits
from .admission import AdmissionQueue
from .job import Job
from .ticket import Batch


@dataclass(frozen=True)
class Outcome:
    """What became of a batch: its rows' outputs, or the error that hit all of them.

    Attributes:
        batch: the rows.
        seconds: of the engine's call.
        scored: of each row, in the batch's order; None where its logits hold a NaN or an infinity.
        error: why there are no outputs.
    """

    batch: Batch[Job]
    seconds: float
    scored: list[Scored | None] | None = None
    error: NlpdeployError | None = None


class EngineWorker:
    """One thread and its engine.

    Args:
        engine: run by this thread alone.
        model: the model's limits and labels.
        queue: where batches come from.
        wide: the same engine on all the cores, for batches that ask for it; shared by all workers, since the queue lets
            nothing run beside such a batch.
        deliver: takes each outcome; called on this thread.
        died: told what ended the thread before the queue was closed; called on this thread.
    """

    def __init__(
        self,
        engine: Engine,
        model: ModelSpec,
        queue: AdmissionQueue,
        *,
        wide: Engine | None = None,
        deliver: Callable[[Outcome], None],
        died: Callable[[BaseException], None],
    ) -> None:
        self._engine = engine
        self._model = model
        self._queue = queue
        self._wide = wide
        self._deliver = deliver
        self._died = died
        # A daemon: an engine that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._main, name=f"engine {engine.id}", daemon=True)

    def start(self) -> None:
        """Begin to take batches."""
        self._thread.start()

    def join(self, timeout: float) -> bool:
        """Wait for the thread to end after its queue was closed; whether it did."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def alive(self) -> bool:
        """Whether batches are still taken."""
        return self._thread.is_alive()

    def run_batch(self, batch: Batch[Job]) -> Outcome:
        """One engine call."""
        rows = [ticket.owner.rows[ticket.index] for ticket in batch.tickets]
        engine = self._wide if batch.wide and self._wide else self._engine
        started = time.monotonic()
        try:
            feed = lay_out(rows, engine.layout, engine.inputs, self._model.pad_id)
            logits = shaped_logits(engine.run(feed), len(rows), len(self._model.labels))
        except NlpdeployError as error:
            return Outcome(batch, time.monotonic() - started, error=error)
        except Exception as error:  # noqa: BLE001  (an engine's own kinds of error enter here)
            failure = EngineFailed(f"engine {engine.id} raised {type(error).__name__}")
            failure.__cause__ = error
            return Outcome(batch, time.monotonic() - started, error=failure)
        return Outcome(batch, time.monotonic() - started, self._score(logits))

    def _score(self, logits: Floats) -> list[Scored | None]:
        """Each row's outputs: here, since one go for a batch takes hardly longer than one for a row."""
        usable = finite_rows(logits)
        if usable.all():
            return [*score_rows(logits, self._model)]
        scored: Iterator[Scored] = iter(score_rows(logits[usable], self._model))
        return [next(scored) if good else None for good in usable.tolist()]

    def _main(self) -> None:
        try:
            while (batch := self._queue.take()) is not None:
                outcome = self.run_batch(batch)
                self._queue.finished(batch, None if outcome.error else outcome.seconds)
                self._deliver(outcome)
        except BaseException as error:  # noqa: BLE001  (whatever it is, nobody may be left waiting)
            self._died(error)
