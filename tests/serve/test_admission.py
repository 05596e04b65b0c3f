"""The queue by itself: what is let in behind what, with the clock as an argument."""

import asyncio
import math
import time
from collections.abc import Iterator

import numpy as np
import pytest

from nlpdeploy.bundle.errors import Overloaded, TooLarge, Unavailable
from nlpdeploy.bundle.evidence import LatencyCurve
from nlpdeploy.runtime.text import Row
from nlpdeploy.serve.admission import AdmissionQueue, Limits, Refusal
from nlpdeploy.serve.forecast import Forecast
from nlpdeploy.serve.job import Job, Question
from nlpdeploy.serve.policy import Policy
from nlpdeploy.serve.scheduler import Scheduler

SLOW = LatencyCurve(base=1.0, per_token=0.0, per_row=0.0, per_square=0.0)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def queue_of(refusals: list[Refusal], lanes: int, limits: Limits | None = None) -> AdmissionQueue:
    return AdmissionQueue(
        Scheduler(Policy(), Forecast(SLOW), lanes=lanes), limits or Limits(), refusals.append, lambda job: None
    )


def submit(queue: AdmissionQueue, loop: asyncio.AbstractEventLoop, deadline: float = math.inf, rows: int = 1) -> None:
    ids = np.array([2, 5, 3])
    asked = [Row(ids, np.zeros_like(ids))] * rows
    job = Job(Question((), None, asked, ("logits",)), loop.create_future(), 0.0, deadline)
    queue.reserve(job)
    job.rows = asked
    queue.submit(job, 0.0)


def test_a_row_that_an_idle_lane_can_start_is_let_in_whatever_the_forecast_says(
    loop: asyncio.AbstractEventLoop,
) -> None:
    refusals: list[Refusal] = []
    queue = queue_of(refusals, lanes=2)
    submit(queue, loop)
    assert queue.take() is not None  # one lane runs for a forecast second
    submit(queue, loop, deadline=0.1)
    with pytest.raises(Overloaded, match="deadline can't be met"):
        submit(queue, loop, deadline=0.1)  # behind that one
    assert refusals == [Refusal.FORECAST]


def test_with_every_lane_busy_the_forecast_decides(loop: asyncio.AbstractEventLoop) -> None:
    refusals: list[Refusal] = []
    queue = queue_of(refusals, lanes=1)
    submit(queue, loop)
    assert queue.take() is not None
    with pytest.raises(Overloaded, match="deadline can't be met"):
        submit(queue, loop, deadline=0.1)
    submit(queue, loop, deadline=math.inf)
    assert queue.depth() == (2, 3)  # the refused one is counted until it is withdrawn


def test_more_rows_than_may_ever_wait_are_refused_before_there_is_a_job() -> None:
    refusals: list[Refusal] = []
    queue = queue_of(refusals, lanes=1, limits=Limits(rows=4))
    queue.check_rows(4)
    with pytest.raises(TooLarge, match="at most 4"):
        queue.check_rows(5)
    assert refusals == [Refusal.TOO_LARGE]


def test_of_a_job_that_is_dropped_nothing_waits_or_is_counted_any_more(loop: asyncio.AbstractEventLoop) -> None:
    steep = LatencyCurve(base=0.0, per_token=0.01, per_row=0.0, per_square=0.0)
    dropped: list[Job] = []
    queue = AdmissionQueue(Scheduler(Policy(), Forecast(steep)), Limits(), [].append, dropped.append)
    lengths = (5000, 3, 5000)  # one of three rows could be answered in time
    rows = [Row(np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)) for n in lengths]
    now = time.monotonic()
    job = Job(Question((), None, rows, ("logits",)), loop.create_future(), now, now + 20.0)
    queue.reserve(job)
    job.rows = rows
    queue.submit(job, now)
    batch = queue.take()
    assert batch is not None
    assert [ticket.index for ticket in batch.tickets] == [1]
    assert dropped == [job]
    assert job.withdrawn
    assert queue.depth() == (0, 0)


@pytest.mark.parametrize("why", [Refusal.DRAINING, Refusal.NOT_READY])
def test_what_comes_too_late_for_a_closed_queue_is_counted_by_why_it_was_closed(
    loop: asyncio.AbstractEventLoop, why: Refusal
) -> None:
    refusals: list[Refusal] = []
    queue = queue_of(refusals, lanes=1)
    queue.close(why)
    queue.close(Refusal.DRAINING)  # as everything is in the end
    with pytest.raises(Unavailable):
        submit(queue, loop)
    assert refusals == [why]
    assert queue.hopeless(1, 0.0, 1.0) is None
    assert queue.take() is None


def test_a_full_queue_sends_away_unread_whatever_comes(loop: asyncio.AbstractEventLoop) -> None:
    refusals: list[Refusal] = []
    queue = queue_of(refusals, lanes=1, limits=Limits(rows=1))
    assert queue.hopeless(1, math.inf, 0.0) is None
    submit(queue, loop)
    refused = queue.hopeless(1, math.inf, 0.0)
    assert refused is not None
    assert "queue is full" in refused.line()
    assert refusals == [Refusal.QUEUE_ROWS]
