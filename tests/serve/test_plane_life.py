"""The data plane from its start to its drain."""

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from nlpdeploy.bundle.errors import (
    NlpdeployError,
    NotFound,
    Unavailable,
)
from nlpdeploy.runtime.text import Row, TextEncoder
from nlpdeploy.serve.plane import DataPlane
from nlpdeploy.serve.served_model import Capacity
from nlpdeploy.wire.tensors import InferResponse
from support.engines import TinyEngine, tiny_predictor
from support.planes import ask, gathered, labels_of, sample, serving


def test_drain_finishes_accepted_work_and_refuses_the_rest(tmp_path: Path) -> None:
    engine = TinyEngine(seconds=0.05)

    async def main() -> None:
        async with serving(tmp_path, engine) as plane:
            accepted = asyncio.create_task(gathered(plane, [ask(["hello"])] * 50))
            while sample(plane, "nlpdeploy_open_requests") < 50:
                await asyncio.sleep(0.001)
            drain = asyncio.create_task(plane.drain(10.0))
            await asyncio.sleep(0)
            assert not plane.ready()
            assert not plane.model_ready("tiny")
            with pytest.raises(Unavailable):
                await plane.infer(ask(["world"]))
            assert await drain
            assert [labels_of(a) for a in await accepted if isinstance(a, InferResponse)] == [["hello"]] * 50

    asyncio.run(main())


def test_work_beyond_the_grace_time_is_answered_as_unavailable(tmp_path: Path) -> None:
    engine = TinyEngine(gate=threading.Event())

    async def main() -> list[InferResponse | NlpdeployError]:
        async with serving(tmp_path, engine) as plane:
            accepted = asyncio.create_task(gathered(plane, [ask(["hello"])] * 5))
            while not engine.batches:
                await asyncio.sleep(0.001)
            assert not await plane.drain(0.05)
            assert engine.gate is not None
            engine.gate.set()
            return await accepted

    assert {type(answer) for answer in asyncio.run(main())} == {Unavailable}


def test_nothing_loaded_is_live_but_never_ready(tmp_path: Path) -> None:
    async def main() -> None:
        plane = DataPlane(expected=("tiny",))
        assert plane.live()
        assert not plane.ready()
        assert not plane.model_ready("tiny")
        with pytest.raises(Unavailable):
            await plane.infer(ask(["hello"]))
        plane.open()
        assert not plane.ready()
        with pytest.raises(NotFound):
            plane.model_ready("tiny")
        plane.close()

    asyncio.run(main())


class ThreadCounter(TextEncoder):
    """A tokenizer that remembers which threads have used it."""

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Row]:
        self.threads: set[int] = {*getattr(self, "threads", ()), threading.get_ident()}
        return super().encode(texts, pairs)


def test_warming_reaches_every_thread_that_tokenises(tmp_path: Path) -> None:
    async def main() -> None:
        predictor = tiny_predictor(tmp_path)
        encoder = ThreadCounter(tmp_path / "tokenizer.json", 16)
        predictor.encoder = encoder
        plane = DataPlane(Capacity(encoder_threads=3))
        plane.add(predictor)
        await plane.warm()
        assert len(encoder.threads) == 4  # the loop's own too, which takes short texts
        assert threading.get_ident() in encoder.threads
        assert plane.close()

    asyncio.run(main())


def test_versions_are_found_by_number_and_an_empty_one_is_the_chosen(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as plane:
            plane.add(tiny_predictor(tmp_path / "2"), version="2", chosen=True)
            assert (await plane.infer(ask(["hello"]))).response.version == "2"
            assert (await plane.infer(ask(["hello"], version="1"))).response.version == "1"
            assert plane.model_metadata("tiny").versions == ("2", "1")
            with pytest.raises(NotFound, match="version '3'"):
                await plane.infer(ask(["hello"], version="3"))

    asyncio.run(main())


def test_stage_times_add_up_to_the_time_of_the_request(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, TinyEngine(seconds=0.02)) as plane:
            started = time.monotonic()
            answer = await plane.infer(ask(["hello"]))
            whole = time.monotonic() - started
            assert set(answer.stages) == {"encode", "queue", "infer", "decode"}
            assert all(seconds >= 0 for seconds in answer.stages.values())
            assert answer.stages["infer"] >= 0.02
            assert sum(answer.stages.values()) <= whole

    asyncio.run(main())
