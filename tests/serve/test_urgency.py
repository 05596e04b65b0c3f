"""Priorities and deadlines from a request to the engine's thread: who runs first, and who hears that it is too late."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nlpdeploy.bundle.errors import DeadlineExceeded
from nlpdeploy.serve.plane import DataPlane
from nlpdeploy.serve.policy import Policy
from nlpdeploy.serve.served_model import Capacity
from nlpdeploy.wire.tensors import InferRequest, Parameter, Tensor
from support.engines import TinyEngine, tiny_predictor, token

PATIENCE = 20.0


@asynccontextmanager
async def serving(folder: Path, engine: TinyEngine, wide: TinyEngine | None = None) -> AsyncIterator[DataPlane]:
    plane = DataPlane(Capacity(policy=Policy(max_rows=1)))
    predictor = tiny_predictor(folder, engine)
    predictor.wide = wide
    plane.add(predictor)
    plane.open()
    try:
        yield plane
    finally:
        for one in (engine, wide):
            if one is not None and one.gate is not None:
                one.gate.set()
        await plane.drain(PATIENCE)
        assert plane.close()


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not happened():
            await asyncio.sleep(0.001)


def asking(word: str, **parameters: Parameter) -> InferRequest:
    return InferRequest(
        "tiny", (Tensor("text", "BYTES", np.array([word.encode()], dtype=object)),), parameters=parameters
    )


def refused(plane: DataPlane, reason: str) -> float:
    points = [point for family in plane.metrics.registry.collect() for point in family.samples]
    return sum(
        point.value for point in points if point.name == "nlpdeploy_refusals_total" and point.labels["reason"] == reason
    )


def order(engine: TinyEngine, words: tuple[str, ...]) -> list[str]:
    """The words in the order in which they were run."""
    return [word for batch in engine.batches for row in batch for word in words if token(word) in row]


def test_a_request_of_priority_1_is_run_before_those_that_came_first(tmp_path: Path) -> None:
    engine = TinyEngine(gate=threading.Event())

    async def main() -> None:
        async with serving(tmp_path, engine) as plane:
            asked = [asyncio.create_task(plane.infer(asking("book")))]
            await until(lambda: bool(engine.batches))
            for rows, (word, priority) in enumerate([("hello", 2), ("world", 0), ("note", 1)], start=1):
                asked.append(asyncio.create_task(plane.infer(asking(word, priority=priority))))
                await until(lambda rows=rows: plane.served()[0].queue.depth()[1] == 3 * rows)  # type: ignore[misc]
            assert engine.gate is not None
            engine.gate.set()
            await asyncio.gather(*asked)

    asyncio.run(main())
    assert order(engine, ("book", "hello", "world", "note")) == ["book", "note", "hello", "world"]


def test_a_request_that_cannot_be_met_any_more_hears_it_at_once_is_counted_and_never_runs(tmp_path: Path) -> None:
    engine = TinyEngine(gate=threading.Event())

    async def main() -> None:
        async with serving(tmp_path, engine) as plane:
            served, now = plane.served()[0], asyncio.get_running_loop().time()
            first = asyncio.create_task(plane.infer(asking("book")))
            await until(lambda: bool(engine.batches))
            hurried = asyncio.create_task(plane.infer(asking("hello"), deadline=now + PATIENCE))
            await until(lambda: served.queue.depth()[1] == 3)
            patient = asyncio.create_task(plane.infer(asking("world"), deadline=now + 1000 * PATIENCE))
            await until(lambda: served.queue.depth()[1] == 6)
            served.forecast.correct([(16, 1, 2 * PATIENCE)])  # calls have become slow, or so it seems
            assert engine.gate is not None
            engine.gate.set()
            with pytest.raises(DeadlineExceeded, match="can't be answered in time any more"):
                await hurried
            assert asyncio.get_running_loop().time() < now + PATIENCE / 2
            await asyncio.gather(first, patient)
            assert refused(plane, "deadline_unreachable") == 1
            assert refused(plane, "deadline_passed") == 0

    asyncio.run(main())
    assert order(engine, ("book", "hello", "world")) == ["book", "world"]


def test_a_lone_request_runs_on_the_wide_engine_where_that_is_faster_and_the_next_one_waits_for_it(
    tmp_path: Path,
) -> None:
    narrow, wide = TinyEngine(), TinyEngine(gate=threading.Event())

    async def main() -> None:
        async with serving(tmp_path, narrow, wide) as plane:
            served = plane.served()[0]
            assert served.wide_forecast is not None
            curve = served.wide_forecast.curve
            served.wide_forecast.curve = replace(curve, base=curve.base / 4, per_token=curve.per_token / 4)
            first = asyncio.create_task(plane.infer(asking("hello")))
            await until(lambda: bool(wide.batches))
            others = [asyncio.create_task(plane.infer(asking(word))) for word in ("world", "note")]
            await until(lambda: served.queue.depth()[1] == 6)
            assert narrow.batches == []
            assert wide.gate is not None
            wide.gate.set()
            await asyncio.gather(first, *others)

    asyncio.run(main())
    assert wide.rows_run() + narrow.rows_run() == 3
    assert narrow.rows_run() >= 1, "with company waiting, the lane takes over"
