"""A model whose answers other servers make: what waits for them, what is under way, and how each request ends.

A request's texts go out in parts, each to the instance with the fewest texts under way. An instance that has refused a
part before anything ran it (no connection, no room, no valid token) is followed by another one that has not, as long as
the caller waits; nothing else is asked for twice. What is answered after its caller has left is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from ..bundle.errors import EngineFailed, NlpdeployError, Overloaded, Unavailable, Unsupported
from ..runtime.tasks import Scored
from ..runtime.text import Row
from ..wire.http1 import AnswerParser
from .admission import LEAST_RETRY
from .admission import Refusal as Reason
from .answers import AnswerForm
from .job import Job
from .metrics import Metrics
from .served_model import Capacity
from .statistics import Statistics
from .upstream_answers import OtherBundle, ask_tensors, read_tensors
from .upstream_connections import Broken, NotSent
from .upstream_description import Description, metadata_of
from .upstream_instance import JSON, TEXT, Instance, State
from .upstream_metrics import Fate, UpstreamMetrics
from .upstream_pace import Pace
from .upstream_queue import Part, UpstreamQueue
from .upstream_refusals import Refusal, Where
from .upstream_spec import Upstream
from .upstream_told import ToldAnswers, read_told

log = logging.getLogger(__name__)

TEXTS_AT_ONCE = 32
"""Most texts of a part: a long request shares the instances, and holds up none of them for long."""
OVERTIME = 5.0
"""Seconds past its deadline for which an answer is waited for, so that its connection can be used again."""
MOST_TOKENS = 2**31
"""No vocabulary is known here, and no request by tokens is taken."""


class UpstreamModel:
    """One model that other servers answer for; keeps the contract of ``served.Served``.

    Args:
        upstream: its name and instances.
        described: what the first instance that answered serves.
        instances: all of them.
        capacity: limits and policy.
        metrics: of the server.
        upstream_metrics: likewise.
    """

    def __init__(
        self,
        upstream: Upstream,
        described: Description,
        instances: Sequence[Instance],
        capacity: Capacity,
        metrics: Metrics,
        upstream_metrics: UpstreamMetrics,
    ) -> None:
        self.name = upstream.name
        self.version = upstream.version or described.version or "1"
        self.described, self.instances = described, tuple(instances)
        self.model = described.model
        self.vocabulary = MOST_TOKENS
        self.engine_id, self.digest = described.engine, described.digest
        self.answers: AnswerForm = ToldAnswers(self.model) if described.told else AnswerForm(self.model)
        self.metrics = metrics.for_model(self.name, self.version, self.engine_id)
        self.statistics = Statistics()
        self.metadata = metadata_of(described, self.name, self.version)
        self.queue = UpstreamQueue(capacity.limits, capacity.policy, self._wait, self.metrics.refused)
        self._upstream_metrics = upstream_metrics
        self._open: dict[Job, _Answers] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._pace = Pace()
        self._closed = False
        self._state_metrics(metrics)

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"

    # -- as the data plane asks it ------------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether an instance answers."""
        return any(instance.up for instance in self.instances)

    def alive(self) -> bool:
        """Whether it may come back: not when every instance serves another bundle, which this process can't take up."""
        return not all(instance.state is State.OTHER for instance in self.instances)

    def trouble(self) -> str:
        """Why no instance can be asked."""
        reasons = "; ".join(f"{instance}: {instance.reason}" for instance in self.instances if not instance.up)
        return f"no instance of its TorchServe answers: {reasons}"

    def idle(self) -> bool:
        """Whether every accepted request is answered."""
        return not self._open

    def accept(self, job: Job) -> None:
        """Send a request on its way; it will be settled.

        Raises:
            Overloaded, TooLarge: there is no room.
            Unavailable: no instance answers.
            Unsupported: it is by tokens.
        """
        now = time.monotonic()
        if job.question.rows is not None:
            raise Unsupported(f"input_ids for {self}", mend="send text: its tokenizer is elsewhere")
        if self._closed or not self.ready():
            self.metrics.refused(Reason.NOT_READY)
            raise Unavailable(f"model {self}", found=self.trouble())
        self.queue.check(job, now)
        job.encoded_at = now
        step = 1 if self.described.told else TEXTS_AT_ONCE
        count = len(job.question)
        parts = [Part(job, slice(begin, min(begin + step, count))) for begin in range(0, count, step)]
        self._open[job] = _Answers(parts, count)
        for part in parts:
            self.queue.add(part)
        self._pump()

    def hopeless(self, form: str, size: int, deadline: float, now: float) -> Overloaded | None:
        """See ``served.Served``: nothing is known here of what a message will take."""
        return None

    def answered(self, form: str, size: int, job: Job) -> None:
        """See ``served.Served``."""

    def release(self, job: Job) -> None:
        """Forget a request that is settled or left alone; what of it has not been sent never will."""
        answers = self._open.pop(job, None)
        for part in answers.parts if answers else ():
            self.queue.take(part)

    def abandon(self, error: NlpdeployError) -> None:
        """Take no more requests and answer all that are open with ``error``."""
        self._closed = True
        for job in tuple(self._open):
            job.fail(error)

    def close(self, timeout: float) -> bool:
        """Cut every connection; on the event loop, or once that has ended."""
        self._closed = True
        for call in self._calls:
            call.cancel()
        for instance in self.instances:
            instance.close()
        return True

    # -- parts on their way -------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """An instance has come or gone: what waits is sent, or answered where nobody is left to be asked."""
        if self.ready():
            self._pump()
            return
        for part in self.queue.clear():
            part.job.fail(Unavailable(f"model {self}", found=self.trouble()))

    def _pump(self) -> None:
        while (part := self.queue.first()) is not None:
            if part.job.settled.done():
                self.queue.take(part)
                continue
            free = [one for one in self.instances if one.up and one.requests < one.slots]
            if not free:
                return
            self.queue.take(part)
            self._send(part, _least(free))

    def _send(self, part: Part, instance: Instance) -> None:
        instance.requests += 1
        instance.rows += len(part)
        part.tried.add(str(instance))
        part.job.dispatched_at = part.job.dispatched_at or time.monotonic()
        call = asyncio.get_running_loop().create_task(self._call(part, instance))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _call(self, part: Part, instance: Instance) -> None:
        """Ask an instance for a part's answers, and see to it that the part comes to its end."""
        try:
            outcome = await self._outcome(part, instance)
        except Exception as error:  # a bug; nobody may be left to wait for a deadline
            log.error("answer of upstream %s could not be handed on", instance, exc_info=error)
            outcome = EngineFailed(f"answer of upstream {instance}", found=type(error).__name__)
            self._upstream_metrics.ended(instance, Fate.FAILED)
        finally:
            instance.requests -= 1
            instance.rows -= len(part)
        if outcome is not None:
            self._give_up(part, instance, outcome)
        self._pump()

    async def _outcome(self, part: Part, instance: Instance) -> NlpdeployError | Refusal | NotSent | None:
        """None where the part is answered."""
        told, began = self.described.told, time.monotonic()
        question = part.job.question
        body = question.texts[part.texts.start].encode() if told else ask_tensors(question, part.texts)
        patience = max(part.job.deadline - began, 0.0) + OVERTIME
        try:
            answer = await instance.predict(body, TEXT if told else JSON, patience)
        except NotSent as error:
            self._upstream_metrics.ended(instance, Fate.NOT_SENT)
            return error
        except Broken as error:
            self._upstream_metrics.ended(instance, Fate.LATE if error.late else Fate.BROKEN)
            return Unavailable(f"upstream {instance} of model {self}", found=str(error))
        seconds = time.monotonic() - began
        if isinstance(answer, Refusal):
            fate = {Where.QUEUE: Fate.NO_ROOM, Where.HANDLER: Fate.FAILED}.get(answer.where, Fate.REFUSED)
            self._upstream_metrics.ended(instance, fate)
            return answer
        return self._read(part, instance, answer, seconds)

    def _read(self, part: Part, instance: Instance, answer: AnswerParser, seconds: float) -> NlpdeployError | None:
        count, question = len(part), part.job.question
        try:
            if self.described.told:
                rows = [read_told(answer.body)]
            else:
                rows = read_tensors(answer.body, self.described, question.outputs, count)
        except NlpdeployError as error:
            if isinstance(error, OtherBundle):
                instance.out(State.OTHER, "it answers for another bundle than it did")
                instance.look_soon()
            log.error("upstream %s of %s: an answer can't be used (%s)", instance, self, type(error).__name__)
            self._upstream_metrics.ended(instance, Fate.FAILED)
            return error
        late = part.job.settled.done()
        self._upstream_metrics.ended(instance, Fate.LATE if late else Fate.ANSWERED)
        self._pace.answered(count, seconds)
        tokens = sum(len(row) for row, _ in rows)
        self.metrics.ran(seconds, count, tokens, tokens)
        self.statistics.ran(count, seconds)
        self._receive(part, rows)
        return None

    def _receive(self, part: Part, rows: Sequence[tuple[Row, Scored]]) -> None:
        job, now = part.job, time.monotonic()
        answers = self._open.get(job)
        if answers is None or job.settled.done():
            return
        for index, (row, scored) in zip(range(part.texts.start, part.texts.stop), rows, strict=True):
            answers.rows[index] = row
            answers.missing -= 1
            if not answers.missing:
                job.rows = answers.rows
            job.receive(index, scored, now)

    def _give_up(self, part: Part, instance: Instance, why: NlpdeployError | Refusal | NotSent) -> None:
        """Another instance, where nothing was run and the caller still waits; else the error."""
        job = part.job
        if job.settled.done() or time.monotonic() >= job.deadline:
            return  # at the deadline the data plane answers
        if isinstance(why, NotSent) or (isinstance(why, Refusal) and why.elsewhere):
            others = [one for one in self.instances if one.up and str(one) not in part.tried]
            if others:
                self._upstream_metrics.retried(instance)
                self._send(part, _least(others))
                return
        if isinstance(why, NotSent):
            job.fail(Unavailable(f"upstream {instance} of model {self}", found=str(why)))
        elif isinstance(why, Refusal):
            error = why.error
            job.fail(self._no_room() if isinstance(error, Overloaded) else error)
        else:
            job.fail(why)

    # -- what is known of it ------------------------------------------------------------------------------------------

    def _wait(self, rows: int) -> float:
        return self._pace.wait(rows, sum(instance.slots for instance in self.instances if instance.up))

    def _no_room(self) -> Overloaded:
        return Overloaded(
            f"upstream of model {self} has no room",
            found="every instance refuses",
            retry_after=max(self._pace.seconds, LEAST_RETRY),
        )

    def _state_metrics(self, metrics: Metrics) -> None:
        labels = (self.name, self.version, self.engine_id)
        described = self.described
        metrics.info.labels(*labels, self.digest, self.model.task.value, described.precision, described.layout).set(1)
        metrics.queue_rows.labels(*labels).set_function(lambda: self.queue.depth()[0])
        metrics.open_requests.labels(*labels).set_function(lambda: len(self._open))
        metrics.ready.labels(*labels).set_function(self.ready)


class _Answers:
    """What has come of a request's texts, and what is still missing."""

    def __init__(self, parts: list[Part], count: int) -> None:
        self.parts = parts
        self.rows: list[Any] = [None] * count
        self.missing = count


def _least(instances: Sequence[Instance]) -> Instance:
    """The one with the fewest texts under way; of equals the one that was asked least, so that they take turns."""
    return min(instances, key=lambda instance: (instance.rows, instance.sent))
