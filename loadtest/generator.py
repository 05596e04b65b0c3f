"""The open loop: requests leave when the schedule says, whatever the server does. In Locust's child processes only.

One greenlet walks the schedule and starts a greenlet for each send; it never waits for one. Latency counts from the
schedule, so neither a slow server nor a late client can hide a delay: both stand in the samples.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import gevent
import gevent.pool
import numpy as np
import numpy.typing as npt

from .alarm import Alarm
from .answers import AnswerCheck
from .client import Client
from .live import step
from .samples import NEVER, Outcome, WorkerBooks

_GRACE = 0.5  # seconds past the last deadline: an answer that raced it is still on its way through the loop


class Settled(NamedTuple):
    """A request that is settled: the arguments of :meth:`SampleLog.append`, and what went wrong, if something did."""

    scheduled: float
    sent: float
    ended: float
    outcome: Outcome
    payload: int
    status: int
    problem: str


@dataclass
class Load:
    """What one worker sends in one block.

    Attributes:
        offsets: float64 [n] when each request is due, in seconds from the start.
        rows: int32 [n] which encoded request each one is.
        requests: encoded requests by data row.
        timeout: seconds from the schedule to the deadline.
        max_in_flight: this worker's share of the cap.
    """

    offsets: npt.NDArray[np.float64]
    rows: npt.NDArray[np.int32]
    requests: Mapping[int, bytes]
    timeout: float
    max_in_flight: int


@dataclass
class Generator:
    """Sends one worker's load of one block and keeps its books.

    Attributes:
        client: to the block's server.
        check: of its answers.
        sink: takes each settled request.
        due: requests that were due so far.
        outcomes: how many were settled how.
        timings: ``server-timing`` of the good answers that had one, as it came.
        steps: good answers by the step of their latency (:func:`.live.step`).
    """

    client: Client
    check: AnswerCheck
    sink: Callable[[Settled], None]
    due: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    timings: list[str] = field(default_factory=list)
    steps: Counter[int] = field(default_factory=Counter)
    _under_way: dict[int, tuple[float, float, int]] = field(default_factory=dict)

    def warm_up(self, load: Load, requests: int) -> None:
        """Open the connection and let the server meet its first requests; failures are left to the block to count."""
        for row in load.rows[:requests].tolist():
            self.client.send(load.requests[row], time.monotonic() + load.timeout)

    def run(self, load: Load, start: float) -> None:
        """Send everything from ``start`` (seconds of ``time.monotonic``), then wait for what is still under way.

        When the greenlet is killed meanwhile, what is under way is settled as UNFINISHED, so the books balance.
        """
        senders = gevent.pool.Group()
        walker = gevent.getcurrent()
        try:
            with Alarm() as alarm:
                for number, (offset, row) in enumerate(zip(load.offsets.tolist(), load.rows.tolist(), strict=True)):
                    due = start + offset
                    if due > time.monotonic():
                        alarm.wait_until(due)
                    else:
                        gevent.sleep(0)  # behind the schedule: let the requests that were started leave first
                    self.due += 1
                    if len(self._under_way) >= load.max_in_flight:
                        self._settle(Settled(offset, NEVER, NEVER, Outcome.OVER_CAP, row, 0, "too many under way"))
                        continue
                    self._under_way[number] = (offset, NEVER, row)
                    sender = gevent.Greenlet(self._send, number, load, start)
                    # Something other than the server failed, e.g. the disk is full: without samples there is no run.
                    sender.link_exception(lambda failed: walker.kill(failed.exception, block=False))
                    senders.start(sender)
            last_deadline = start + float(load.offsets.max(initial=0.0)) + load.timeout
            senders.join(timeout=max(0.0, last_deadline + _GRACE - time.monotonic()))
        finally:
            senders.kill(block=False)
            for offset, sent, row in self._under_way.values():
                self._settle(Settled(offset, sent, NEVER, Outcome.UNFINISHED, row, 0, "open when the run ended"))
            self._under_way.clear()

    def _send(self, number: int, load: Load, start: float) -> None:
        offset, _, row = self._under_way[number]
        sent = time.monotonic() - start
        self._under_way[number] = (offset, sent, row)
        reply = self.client.send(load.requests[row], start + offset + load.timeout)
        outcome, problem = reply.outcome, reply.detail
        if outcome is Outcome.OK:
            problem = self.check.problem(self.client, reply.body, row)
            outcome = Outcome.WRONG_ANSWER if problem else Outcome.OK
            if reply.timing and not problem:
                self.timings.append(reply.timing)
        if self._under_way.pop(number, None) is not None:
            self._settle(Settled(offset, sent, reply.ended - start, outcome, row, reply.status, problem))

    def _settle(self, request: Settled) -> None:
        self.outcomes[request.outcome.name] += 1
        if request.outcome is Outcome.OK:
            self.steps[step(request.ended - request.scheduled)] += 1
        self.sink(request)

    def books(self, block: int, worker: int, problem: str | None = None) -> WorkerBooks:
        """What was counted."""
        return WorkerBooks(
            block, worker, self.due, dict(self.outcomes), dict(self.check.digests), dict(self.check.engines), problem
        )
