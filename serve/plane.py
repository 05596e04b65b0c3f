"""The data plane: what both fronts call. Knows no transport and no status code.

A request's way is one line: :meth:`DataPlane.infer` -> ``TextEncoder.encode`` and ``AdmissionQueue.submit`` on an
encoder thread -> ``Scheduler.next_batch`` and ``EngineWorker.run_batch`` on the engine's thread -> ``decode``.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from ..bundle.errors import DeadlineExceeded, InvalidInput, NotFound, Overloaded, Unavailable
from ..runtime.predictor import Predictor
from ..wire.tensors import InferRequest, InferResponse
from .admission import Refusal
from .answers import Inference, PredictAnswer, answer_parameters
from .aside import Aside
from .catalogue import Catalogue
from .job import Job, Question
from .metrics import CANCELLED, Metrics, outcome_of
from .request_log import note_job, note_model
from .requests import read_body, read_request, read_timeout, rows_asked
from .served import Served
from .served_model import Capacity, ServedModel


class DataPlane(Catalogue):
    """Models behind one door. Lives on one event loop, on which it must be made.

    It starts not ready: models are added, then :meth:`open` lets requests in. :meth:`drain` ends it.

    Args:
        capacity: limits and policy of each model.
        default_timeout: seconds for a request that names none.
        expected: names of models that are being loaded, which are known though not ready yet.
        metrics: where requests are counted.
    """

    def __init__(
        self,
        capacity: Capacity | None = None,
        *,
        default_timeout: float = 60.0,
        expected: Sequence[str] = (),
        metrics: Metrics | None = None,
    ) -> None:
        super().__init__(capacity or Capacity(), expected)
        self.metrics = metrics or Metrics()
        self._default_timeout = default_timeout
        self.aside = Aside()
        self._encoders = ThreadPoolExecutor(self._capacity.encoder_threads, thread_name_prefix="encoder")

    # -- life ---------------------------------------------------------------------------------------------------------

    def add(self, predictor: Predictor, *, version: str = "1", chosen: bool = True) -> ServedModel:
        """Serve one more model.

        Args:
            predictor: loaded; closed by :meth:`close`.
            version: as callers name it.
            chosen: whether it answers requests that name no version.
        """
        served = ServedModel(predictor, version, self._capacity, self._encoders, self.metrics)
        self._models.add(served, chosen=chosen)
        return served

    def adopt(self, served: Served) -> None:
        """Serve one more model, whose answers are made elsewhere.

        Of a name that is served already it answers requests that name its version.

        Raises:
            InvalidInput: that version of it is served already.
        """
        if served.version in self._models.versions(served.name):
            raise InvalidInput(f"model {served.name} version {served.version}", found="twice", wanted="once")
        self._models.add(served, chosen=False)

    async def warm(self) -> None:
        """Let this thread and every encoder thread make their copies of every tokenizer, which a first request would
        wait for, and measure what calls of each engine take here."""
        loop = asyncio.get_running_loop()
        threads = self._capacity.encoder_threads
        for served in self._models.all():
            if not isinstance(served, ServedModel):
                continue
            served.predictor.encode([""], [""] if served.model.pair else None)
            all_here = threading.Barrier(threads)  # a thread that waits for the others can't take a second turn
            turns = [loop.run_in_executor(self._encoders, served.warm, all_here) for _ in range(threads)]
            await asyncio.gather(*turns)
            await loop.run_in_executor(None, served.calibrate)

    def open(self) -> None:
        """All models are there: let requests in."""
        self._opened = True

    async def drain(self, grace: float) -> bool:
        """Let no more in, finish what was accepted; what takes longer than ``grace`` seconds is answered Unavailable.

        Returns:
            Whether all was finished in time.
        """
        self._draining = True
        end = asyncio.get_running_loop().time() + grace
        while not self._idle() and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.005)
        finished = self._idle()
        for served in self._models.all():
            served.abandon(Unavailable("the server is going down", mend="ask another one"))
        while not self._idle():
            await asyncio.sleep(0)
        return finished

    def close(self, timeout: float = 5.0) -> bool:
        """Free engines and threads after :meth:`drain`; whether all engine threads ended within ``timeout`` seconds."""
        self._draining = True
        self._encoders.shutdown(wait=False, cancel_futures=True)
        self.aside.close()
        end = time.monotonic() + timeout
        ended = [served.close(max(end - time.monotonic(), 0.0)) for served in self._models.all()]
        return all(ended)

    # -- requests ------------------------------------------------------------------------------------------------------

    def require(self, name: str, version: str = "") -> Served:
        """The model asked; a front asks before it reads a body. One that isn't here is counted.

        Raises:
            NotFound: no such model or version.
            Unavailable: it is still being loaded.
        """
        try:
            return self._find(name, version)
        except (NotFound, Unavailable) as error:
            self.metrics.unrouted.labels(outcome_of(error)).inc()
            raise

    @contextlib.contextmanager
    def reading(self, name: str, version: str = "") -> Iterator[None]:
        """While a front reads a message for a model: one that can't be read is counted like any other failed request.

        Raises:
            NotFound, Unavailable: as :meth:`require`.
        """
        served, begun = self.require(name, version), time.monotonic()
        try:
            yield
        except (asyncio.CancelledError, Exception) as error:
            note_model(served.name, served.version)
            _count_failure(served, time.monotonic() - begun, error)
            raise

    def turned_away(
        self, form: str, model: str, version: str, size: int, deadline: float | None
    ) -> tuple[Overloaded, Served] | None:
        """The refusal of a request that nobody has read, if it would be refused whatever stands in it.

        Who offers twice what can be answered is sent away every second time: reading those requests, and tokenising
        their texts, would take the cores from the engines. It is counted as any other refusal.

        Args:
            form: of the message: ``predict`` or ``infer``.
            model: as asked.
            version: as asked.
            size: bytes of the message, which has at least one row and normal priority.
            deadline: as for :meth:`infer`; the message names no earlier one.

        Returns:
            The error, to be answered and not raised, and the model; None where the request is to be read.
        """
        if self._draining or not self._opened:
            return None
        accepted = time.monotonic()
        try:
            served = self._models.find(model, version)
        except NotFound:
            return None
        until = accepted + self._default_timeout if deadline is None else deadline
        error = served.hopeless(form, size, until, accepted)
        if error is None:
            return None
        _count_failure(served, time.monotonic() - accepted, error)
        return error, served

    async def infer(self, request: InferRequest, *, deadline: float | None = None, size: int = 0) -> Inference:
        """Answer a ``ModelInfer``. Cancelling the awaiting task withdraws the work.

        No texts are a question too: the answer has 0 rows, and no engine is asked.

        Args:
            request: by text or by tokens.
            deadline: absolute ``time.monotonic()`` seconds; the earlier of it and the ``timeout`` parameter counts.
            size: bytes of the message; a large one is read apart from the event loop.

        Raises:
            NotFound: no such model or version.
            InvalidInput: the request doesn't fit the model.
            TooLarge: more rows or tokens than may ever wait.
            Overloaded: no room, or the deadline can't be met.
            DeadlineExceeded: time was over; raised at the deadline, whatever the engine is doing.
            EngineFailed: the engine raised, or a row of this request came out non-finite.
            Unavailable: loading, draining, or the model's worker has ended.
        """
        accepted = time.monotonic()
        with self._counted(accepted, request.model, request.version) as served:
            note_model(served.name, served.version, request.id)
            served.queue.check_rows(rows_asked(request))
            question = await self.aside.run(size, lambda: read_request(request, served.model, served.vocabulary))
            named = min(_or_never(deadline), accepted + read_timeout(request.parameters))
            job = await self._answered(served, question, accepted, named)
            outputs = served.answers.tensors(job.rows, job.scored, question.outputs)
            parameters = answer_parameters(job.rows, digest=served.digest, engine=served.engine_id)
            response = InferResponse(served.name, served.version, request.id, outputs, parameters)
            served.answered("infer", size, job)
            return Inference(response, self._count_answer(served, job))

    async def predict(
        self, model: str, version: str, body: object, *, deadline: float | None = None, size: int = 0
    ) -> PredictAnswer:
        """Answer a plain HTTP body, ``{"text": "…"}`` or ``{"text": ["…", …]}``, for pairs with ``text_pair``.

        Arguments as for :meth:`infer`.

        Raises:
            As :meth:`infer`.
        """
        accepted = time.monotonic()
        with self._counted(accepted, model, version) as served:
            note_model(served.name, served.version)
            question, single = await self.aside.run(size, lambda: read_body(body, served.model))
            served.queue.check_rows(len(question))
            job = await self._answered(served, question, accepted, _or_never(deadline))
            rows = served.answers.values(job.rows, job.scored, question.outputs)
            parameters = answer_parameters(job.rows, digest=served.digest, engine=served.engine_id)
            answer = rows[0] if single else {"predictions": rows}
            served.answered("predict", size, job)
            return PredictAnswer(answer, self._count_answer(served, job), parameters)

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _answered(self, served: Served, question: Question, accepted: float, deadline: float) -> Job:
        """Run a question to its end: the job comes back settled and answered, or its error is raised."""
        loop = asyncio.get_running_loop()
        if math.isinf(deadline):
            deadline = accepted + self._default_timeout
        settled = loop.create_future()
        job = Job(question, settled, accepted, deadline)
        note_job(job)
        if not len(question):
            job.encoded_at = job.dispatched_at = job.finished_at = accepted
            return job
        timer = loop.call_at(deadline, _expire, served, job)
        try:
            if deadline <= accepted:
                _expire(served, job)
            else:
                served.accept(job)
            await settled
        except asyncio.CancelledError:
            served.metrics.refused(Refusal.CANCELLED)
            raise
        finally:
            timer.cancel()
            served.release(job)
        return job

    @contextlib.contextmanager
    def _counted(self, accepted: float, name: str, version: str) -> Iterator[Served]:
        """The model asked; whatever ends the request other than an answer is counted once, by its kind."""
        served = self.require(name, version)
        try:
            if self._draining or not self._opened:
                served.metrics.refused(Refusal.DRAINING if self._draining else Refusal.NOT_READY)
                raise Unavailable("the server is going down" if self._draining else "the server is starting")
            yield served
        except (asyncio.CancelledError, Exception) as error:
            _count_failure(served, time.monotonic() - accepted, error)
            raise

    def _count_answer(self, served: Served, job: Job) -> Mapping[str, float]:
        now = time.monotonic()
        stages = job.stages(now)
        served.metrics.answered(now - job.accepted, stages, sum(row.truncated for row in job.rows))
        served.statistics.answered(len(job.rows), stages)
        return stages

    def _idle(self) -> bool:
        return all(served.idle() for served in self._models.all())


def _or_never(deadline: float | None) -> float:
    return math.inf if deadline is None else deadline


def _count_failure(served: Served, seconds: float, error: BaseException) -> None:
    served.metrics.failed(seconds, CANCELLED if isinstance(error, asyncio.CancelledError) else outcome_of(error))
    served.statistics.failed(seconds)


def _expire(served: Served, job: Job) -> None:
    if not job.settled.done():
        served.metrics.refused(Refusal.EXPIRED)
        allowed = max(job.deadline - job.accepted, 0.0)
        job.fail(DeadlineExceeded("the request's time is over", found=f"no answer within {allowed:.3f} s"))
