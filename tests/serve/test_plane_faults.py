"""The data plane with engines and tokenizers that fail: each request ends in one answer."""

import asyncio
import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nlpdeploy.bundle.errors import (
    EngineFailed,
    InvalidInput,
    NlpdeployError,
    Unavailable,
)
from nlpdeploy.runtime.text import Row, TextEncoder
from nlpdeploy.serve.plane import DataPlane
from nlpdeploy.wire.tensors import InferRequest, InferResponse
from support.engines import KEYWORDS, TinyEngine, tiny_predictor
from support.planes import ask, gathered, labels_of, sample, serving


def behind_a_gate(
    folder: Path, engine: TinyEngine, requests: Sequence[InferRequest]
) -> list[InferResponse | NlpdeployError]:
    """Answers to requests of single words that the engine finds waiting all at once."""
    engine.gate = threading.Event()

    async def main() -> list[InferResponse | NlpdeployError]:
        async with serving(folder, engine) as plane:
            first = asyncio.create_task(plane.infer(ask(["a"])))
            while not engine.batches:
                await asyncio.sleep(0.001)
            rest = asyncio.create_task(gathered(plane, requests))
            tokens = 3 * sum(tensor.shape[0] for request in requests for tensor in request.inputs)
            while sample(plane, "nlpdeploy_queue_tokens") < tokens:
                await asyncio.sleep(0.001)
            assert engine.gate is not None
            engine.gate.set()
            answers = await rest
            await first
            assert sample(plane, "nlpdeploy_request_seconds_count") == len(requests) + 1
            return answers

    return asyncio.run(main())


def test_a_nan_row_is_an_error_for_its_own_request_only(tmp_path: Path) -> None:
    engine = TinyEngine(nan_word="book")
    answers = behind_a_gate(tmp_path, engine, [ask(["hello"]), ask(["world", "book"]), ask(["note"])])
    assert isinstance(answers[1], EngineFailed)
    assert "NaN" in str(answers[1])
    assert [labels_of(a) for a in (answers[0], answers[2]) if isinstance(a, InferResponse)] == [["hello"], ["note"]]
    assert any(len(batch) == 4 for batch in engine.batches)


def test_a_batch_that_raises_fails_alone_and_the_worker_goes_on(tmp_path: Path) -> None:
    engine = TinyEngine(raise_word="book")

    async def main() -> None:
        async with serving(tmp_path, engine) as plane:
            with pytest.raises(EngineFailed, match="ValueError"):
                await plane.infer(ask(["book"]))
            assert plane.ready()
            assert labels_of((await plane.infer(ask(["hello"]))).response) == ["hello"]

    asyncio.run(main())


def test_a_dead_worker_answers_all_that_is_open_and_makes_the_model_not_ready(tmp_path: Path) -> None:
    engine = TinyEngine(die_word="book", gate=threading.Event())

    async def main() -> None:
        async with serving(tmp_path, engine) as plane:
            doomed = asyncio.create_task(gathered(plane, [ask(["book"])]))
            while not engine.batches:
                await asyncio.sleep(0.001)
            waiting = asyncio.create_task(gathered(plane, [ask([KEYWORDS[i % 4]]) for i in range(40)]))
            while sample(plane, "nlpdeploy_queue_rows") < 40:
                await asyncio.sleep(0.001)
            assert engine.gate is not None
            engine.gate.set()
            answers = await doomed + await waiting
            assert [type(answer) for answer in answers] == [EngineFailed] * 41
            assert not plane.ready()
            assert not plane.model_ready("tiny")
            with pytest.raises(Unavailable):
                await plane.infer(ask(["hello"]))

    asyncio.run(main())


def test_a_broken_tokenizer_answers_its_request_and_the_next_one_works(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as plane:
            with pytest.raises(InvalidInput):
                await plane.predict("tiny", "", {"text": "\ud800"})
            assert labels_of((await plane.infer(ask(["hello"]))).response) == ["hello"]

    asyncio.run(main())


class FaultyEncoder(TextEncoder):
    """A tokenizer that dies of one word."""

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Row]:
        if any("book" in text for text in texts):
            raise RuntimeError("a text that must not be told: book")
        return super().encode(texts, pairs)


def test_an_encoder_that_raises_is_answered_and_its_text_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        predictor = tiny_predictor(tmp_path)
        predictor.encoder = FaultyEncoder(tmp_path / "tokenizer.json", 16)
        plane = DataPlane()
        plane.add(predictor)
        plane.open()
        with pytest.raises(EngineFailed, match="RuntimeError") as failure:
            await plane.infer(ask(["a book"]))
        assert "book" not in str(failure.value)
        assert labels_of((await plane.infer(ask(["hello"]))).response) == ["hello"]
        await plane.drain(1.0)
        assert plane.close()

    asyncio.run(main())
    assert "RuntimeError" in caplog.text
    assert "book" not in caplog.text


def test_whatever_happens_each_request_ends_in_exactly_one_answer(tmp_path: Path) -> None:
    chance = random.Random(11)
    engine = TinyEngine(seconds=0.003, nan_word="book", raise_word="notebook")
    kinds = [chance.choice(["good", "nan", "raise", "late", "left", "wrong"]) for _ in range(300)]

    async def one(plane: DataPlane, kind: str) -> str:
        await asyncio.sleep(chance.random() * 0.3)
        word = {"nan": "book", "raise": "notebook"}.get(kind, "hello")
        texts = [word, *["a " * chance.randrange(12)] * chance.randrange(4)]
        options: dict[str, Any] = {"late": {"parameters": {"timeout": 100}}, "wrong": {"outputs": ("x",)}}.get(kind, {})
        task = asyncio.create_task(plane.infer(ask(texts, **options)))
        if kind == "left":
            await asyncio.sleep(chance.random() * 0.004)
            task.cancel()
        try:
            response = (await task).response
            assert labels_of(response)[0] == "hello"
            assert response.outputs[0].shape == (len(texts),)
            return "ok"
        except asyncio.CancelledError:
            return "Cancelled"
        except NlpdeployError as error:
            return type(error).__name__

    async def main() -> list[str]:
        async with serving(tmp_path, engine) as plane:
            ends = await asyncio.gather(*(one(plane, kind) for kind in kinds))
            assert sample(plane, "nlpdeploy_queue_rows") == 0
            assert sample(plane, "nlpdeploy_queue_tokens") == 0
            assert sample(plane, "nlpdeploy_open_requests") == 0
            for end in set(ends):
                assert sample(plane, "nlpdeploy_request_seconds_count", outcome=end) == ends.count(end)
            assert sample(plane, "nlpdeploy_request_seconds_count") == len(kinds)
            return list(ends)

    ends = asyncio.run(main())
    allowed = {
        "good": {"ok", "EngineFailed"},  # a row beside one that makes the engine raise fails with its batch
        "nan": {"EngineFailed"},
        "raise": {"EngineFailed"},
        "late": {"DeadlineExceeded", "Overloaded"},
        "left": {"Cancelled", "ok", "EngineFailed"},
        "wrong": {"InvalidInput"},
    }
    assert all(end in allowed[kind] for kind, end in zip(kinds, ends, strict=True))
    assert {"ok", "Cancelled", "EngineFailed", "InvalidInput"} <= set(ends)
