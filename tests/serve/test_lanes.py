"""One model with two engines that take from one queue: both work, all is counted, all ends."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nlpdeploy.bundle.errors import EngineFailed, NlpdeployError, Unavailable
from nlpdeploy.serve.plane import DataPlane
from support.engines import KEYWORDS, LABELS, TinyEngine, tiny_predictor

PATIENCE = 20.0


@asynccontextmanager
async def serving(folder: Path, lanes: Sequence[TinyEngine]) -> AsyncIterator[DataPlane]:
    plane = DataPlane()
    plane.add(tiny_predictor(folder, lanes[0], others=lanes[1:]))
    plane.open()
    try:
        yield plane
    finally:
        await plane.drain(0.0)
        for lane in lanes:
            if lane.gate is not None:
                lane.gate.set()
        assert plane.close()


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not happened():
            await asyncio.sleep(0.001)


async def label(plane: DataPlane, word: str) -> str:
    """The label of a word, or the kind of error."""
    try:
        return str((await plane.predict("tiny", "", {"text": word})).answer["label"])
    except NlpdeployError as error:
        return type(error).__name__


def sample(plane: DataPlane, name: str) -> float:
    points = [point for family in plane.metrics.registry.collect() for point in family.samples]
    return sum(point.value for point in points if point.name == name)


def test_one_large_request_wakes_every_lane(tmp_path: Path) -> None:
    gate = threading.Event()
    lanes = [TinyEngine(gate=gate), TinyEngine(gate=gate)]

    async def main() -> list[str]:
        async with serving(tmp_path, lanes) as plane:
            await asyncio.sleep(0.05)  # both lanes are asleep on an empty queue
            texts = [KEYWORDS[i % 4] for i in range(100)]
            asked = asyncio.create_task(plane.predict("tiny", "", {"text": texts}))
            await until(lambda: all(lane.batches for lane in lanes))
            gate.set()
            return [row["label"] for row in (await asked).answer["predictions"]]

    assert asyncio.run(main()) == [LABELS[i % 4] for i in range(100)]
    assert sum(lane.rows_run() for lane in lanes) == 100


def test_a_lone_text_is_answered_while_another_lane_is_stuck(tmp_path: Path) -> None:
    stuck, free = TinyEngine(gate=threading.Event()), TinyEngine(gate=threading.Event())

    async def main() -> None:
        async with serving(tmp_path, [stuck, free]) as plane:
            first = asyncio.create_task(label(plane, "hello"))
            await until(lambda: bool(stuck.batches or free.batches))
            idle = free if stuck.batches else stuck
            assert idle.gate is not None
            idle.gate.set()
            assert await label(plane, "world") == "world"
            assert not first.done()
            await plane.drain(0.0)
            assert await first == "Unavailable"

    asyncio.run(main())


def test_the_books_of_both_lanes_add_up(tmp_path: Path) -> None:
    lanes = [TinyEngine(seconds=0.002), TinyEngine(seconds=0.002)]

    async def main() -> None:
        async with serving(tmp_path, lanes) as plane:
            words = [KEYWORDS[i % 4] for i in range(200)]
            answers = await asyncio.gather(*(label(plane, word) for word in words))
            assert answers == [LABELS[i % 4] for i in range(200)]
            assert sample(plane, "nlpdeploy_batch_rows_sum") == 200
            assert sample(plane, "nlpdeploy_batch_seconds_count") == sum(len(lane.batches) for lane in lanes)
            assert sample(plane, "nlpdeploy_request_seconds_count") == 200
            for gauge in ("open_requests", "queue_rows", "queue_tokens"):
                assert sample(plane, f"nlpdeploy_{gauge}") == 0

    asyncio.run(main())
    assert all(lane.batches for lane in lanes)


def test_drain_waits_for_both_lanes_and_close_frees_both_engines(tmp_path: Path) -> None:
    lanes = [TinyEngine(gate=threading.Event()), TinyEngine(gate=threading.Event())]

    async def main() -> None:
        async with serving(tmp_path, lanes) as plane:
            answers = [asyncio.create_task(label(plane, "hello"))]
            await until(lambda: any(lane.batches for lane in lanes))
            answers.append(asyncio.create_task(label(plane, "hello")))
            await until(lambda: all(lane.batches for lane in lanes))
            draining = asyncio.create_task(plane.drain(PATIENCE))
            await asyncio.sleep(0)
            with pytest.raises(Unavailable):
                await plane.predict("tiny", "", {"text": "hello"})
            for lane in lanes:
                assert not draining.done()
                assert lane.gate is not None
                lane.gate.set()
            assert await draining
            assert await asyncio.gather(*answers) == ["hello", "hello"]
            assert plane.live()

    asyncio.run(main())
    assert [lane.closed for lane in lanes] == [True, True]


def test_the_death_of_one_lane_answers_all_and_asks_for_a_restart(tmp_path: Path) -> None:
    gate = threading.Event()
    lanes = [TinyEngine(gate=gate, die_word="book"), TinyEngine(gate=gate, die_word="book")]

    async def main() -> None:
        async with serving(tmp_path, lanes) as plane:
            assert plane.live()
            answers = [asyncio.create_task(label(plane, "book"))]
            await until(lambda: any(lane.batches for lane in lanes))
            answers.append(asyncio.create_task(label(plane, "hello")))
            await until(lambda: all(lane.batches for lane in lanes))
            answers += [asyncio.create_task(label(plane, "world")) for _ in range(40)]
            await until(lambda: sample(plane, "nlpdeploy_queue_rows") == 40)
            gate.set()
            ends = await asyncio.wait_for(asyncio.gather(*answers), PATIENCE)
            assert ends[0] == EngineFailed.__name__
            # The other lane ends its batch, and may take one more before it hears of the death.
            assert set(ends[1:]) <= {"hello", "world", EngineFailed.__name__}
            await until(lambda: not plane.ready())
            assert not plane.model_ready("tiny")
            assert not plane.live()
            assert await label(plane, "hello") == Unavailable.__name__
            assert sample(plane, "nlpdeploy_open_requests") == 0

    asyncio.run(main())


def test_engines_are_not_freed_under_a_call_that_does_not_return(tmp_path: Path) -> None:
    gate = threading.Event()
    lanes = [TinyEngine(gate=gate), TinyEngine(gate=gate)]

    async def main() -> None:
        async with serving(tmp_path, lanes) as plane:
            asked = asyncio.create_task(label(plane, "hello"))
            await until(lambda: any(lane.batches for lane in lanes))
            other = asyncio.create_task(label(plane, "hello"))
            await until(lambda: all(lane.batches for lane in lanes))
            await plane.drain(0.0)
            assert [await asked, await other] == ["Unavailable"] * 2
            assert not plane.close(0.05)
            assert not any(lane.closed for lane in lanes)

    asyncio.run(main())
