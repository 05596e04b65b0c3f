"""The data plane under load: deadlines, callers who leave, a full queue."""

import asyncio
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from nlpdeploy.bundle.errors import (
    DeadlineExceeded,
    Overloaded,
    TooLarge,
)
from nlpdeploy.serve.admission import Limits
from nlpdeploy.serve.served_model import Capacity
from nlpdeploy.wire.tensors import InferRequest, Tensor
from support.engines import TinyEngine, token
from support.planes import ask, labels_of, sample, serving


def test_a_deadline_is_answered_when_it_passes_and_its_work_never_runs(tmp_path: Path) -> None:
    engine = TinyEngine(seconds=2.0)

    async def main() -> float:
        async with serving(tmp_path, engine) as plane:
            first = asyncio.create_task(plane.infer(ask(["hello"])))
            while not engine.batches:
                await asyncio.sleep(0.001)
            started = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                await plane.infer(ask(["world"], parameters={"timeout": 200_000}))
            waited = time.monotonic() - started
            assert labels_of((await first).response) == ["hello"]
            engine.seconds = 0.0
            again = await plane.infer(ask(["note"], parameters={"timeout": 200_000}))
            assert labels_of(again.response) == ["note"]
            assert sample(plane, "nlpdeploy_refusals_total", reason="deadline_passed") == 1
            assert sample(plane, "nlpdeploy_request_seconds_count", outcome="DeadlineExceeded") == 1
            return waited

    assert 0.2 <= asyncio.run(main()) < 1.0
    assert all(token("world") not in row for batch in engine.batches for row in batch)


def test_a_caller_who_leaves_takes_the_work_away(tmp_path: Path) -> None:
    gate = threading.Event()
    engine = TinyEngine(gate=gate)

    async def main() -> None:
        async with serving(tmp_path, engine) as plane:
            first = asyncio.create_task(plane.infer(ask(["hello"])))
            while not engine.batches:
                await asyncio.sleep(0.001)
            second = asyncio.create_task(plane.infer(ask(["world"])))
            while sample(plane, "nlpdeploy_queue_tokens") == 0:
                await asyncio.sleep(0.001)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            assert sample(plane, "nlpdeploy_queue_rows") == 0
            gate.set()
            await first
            assert sample(plane, "nlpdeploy_request_seconds_count", outcome="Cancelled") == 1

    asyncio.run(main())
    assert engine.rows_run() == 1


def test_a_full_queue_refuses_at_once_with_a_retry_hint(tmp_path: Path) -> None:
    gate = threading.Event()
    engine = TinyEngine(gate=gate)

    async def main() -> Overloaded:
        async with serving(tmp_path, engine, capacity=Capacity(Limits(rows=4, tokens=10_000))) as plane:
            first = asyncio.create_task(plane.infer(ask(["hello"])))
            while not engine.batches:
                await asyncio.sleep(0.001)
            waiting = asyncio.create_task(plane.infer(ask(["world"] * 4)))
            await asyncio.sleep(0)
            with pytest.raises(Overloaded) as refused:
                await plane.infer(ask(["note"]))
            with pytest.raises(TooLarge):
                await plane.infer(ask(["note"] * 5))
            gate.set()
            assert len(labels_of((await waiting).response)) == 4
            await first
            assert sample(plane, "nlpdeploy_refusals_total", reason="queue_rows") == 1
            return refused.value

    assert asyncio.run(main()).retry_after > 0


def test_too_many_rows_are_refused_before_any_of_them_is_looked_at(tmp_path: Path) -> None:
    ids = np.full((5000, 2), 999, dtype=np.int64)  # out of the vocabulary, which would be another error

    async def main() -> None:
        async with serving(tmp_path) as plane:
            with pytest.raises(TooLarge, match="found 5000"):
                await plane.infer(InferRequest("tiny", (Tensor("input_ids", "INT64", ids),)))
            with pytest.raises(TooLarge, match="found 5000"):
                await plane.predict("tiny", "", {"text": ["hello"] * 5000})
            assert sample(plane, "nlpdeploy_refusals_total", reason="too_large") == 2
            assert sample(plane, "nlpdeploy_request_seconds_count", outcome="TooLarge") == 2

    asyncio.run(main())


def test_a_deadline_that_the_queue_ahead_makes_impossible_is_refused_at_the_door(tmp_path: Path) -> None:
    gate = threading.Event()
    engine = TinyEngine(gate=gate)

    async def main() -> None:
        async with serving(tmp_path, engine) as plane:
            first = asyncio.create_task(plane.infer(ask(["hello"])))
            while not engine.batches:
                await asyncio.sleep(0.001)
            # 3,000 rows of 16 tokens are forecast to take about a second by the curve of an unmeasured engine.
            crowd = asyncio.create_task(plane.infer(ask(["a " * 20] * 3000)))
            while sample(plane, "nlpdeploy_queue_tokens") == 0:
                await asyncio.sleep(0.001)
            with pytest.raises(Overloaded, match="deadline can't be met"):
                await plane.infer(ask(["world"], parameters={"timeout": 100_000}))
            gate.set()
            await asyncio.gather(first, crowd)

    asyncio.run(main())
