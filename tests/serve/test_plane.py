"""The data plane end to end with small engines: identity, deadlines, faults, drain; each request one answer."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nlpdeploy.bundle.errors import (
    DeadlineExceeded,
    EngineFailed,
    InvalidInput,
    NlpdeployError,
    NotFound,
    Overloaded,
    TooLarge,
    Unavailable,
)
from nlpdeploy.bundle.specs import ModelSpec, Task
from nlpdeploy.runtime.text import Row, TextEncoder
from nlpdeploy.serve.admission import Limits
from nlpdeploy.serve.plane import DataPlane
from nlpdeploy.serve.served_model import Capacity
from nlpdeploy.wire.tensors import InferRequest, InferResponse, Tensor
from support.engines import KEYWORDS, LABELS, TinyEngine, tiny_logits, tiny_model, tiny_predictor, token


@asynccontextmanager
async def serving(
    folder: Path,
    engine: TinyEngine | None = None,
    model: ModelSpec | None = None,
    *,
    capacity: Capacity | None = None,
    default_timeout: float = 20.0,
) -> AsyncIterator[DataPlane]:
    plane = DataPlane(capacity, default_timeout=default_timeout)
    plane.add(tiny_predictor(folder, engine, model))
    plane.open()
    try:
        yield plane
    finally:
        await plane.drain(0.0)
        assert plane.close()


def ask(texts: Sequence[str], **options: Any) -> InferRequest:
    data = np.array([text.encode() for text in texts] or [], dtype=object)
    return InferRequest("tiny", (Tensor("text", "BYTES", data),), **options)


def outputs_of(response: InferResponse) -> dict[str, list[Any]]:
    return {tensor.name: tensor.data.tolist() for tensor in response.outputs}


def labels_of(response: InferResponse) -> list[str]:
    return [label.decode() for label in outputs_of(response)["label"]]


def sample(plane: DataPlane, name: str, **labels: str) -> float:
    total = 0.0
    for family in plane.metrics.registry.collect():
        for point in family.samples:
            if point.name == name and all(point.labels.get(key) == value for key, value in labels.items()):
                total += point.value
    return total


# -- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 5])
def test_64_concurrent_requests_each_get_their_own_rows_and_id(tmp_path: Path, most: int) -> None:
    chance = random.Random(7)
    asked = {f"r{i}": [chance.randrange(len(LABELS)) for _ in range(chance.randint(1, most))] for i in range(64)}

    async def main() -> dict[str, InferResponse]:
        async with serving(tmp_path, TinyEngine(seconds=0.002)) as plane:
            requests = [
                ask([KEYWORDS[c] + " a" * chance.randrange(6) for c in classes], id=i) for i, classes in asked.items()
            ]
            answers = await asyncio.gather(*(plane.infer(request) for request in requests))
            return {request.id: answer.response for request, answer in zip(requests, answers, strict=True)}

    for request_id, response in asyncio.run(main()).items():
        assert response.id == request_id
        assert labels_of(response) == [LABELS[c] for c in asked[request_id]]
        assert [tensor.shape for tensor in response.outputs] == [(len(asked[request_id]),)] * 2


def test_one_request_larger_than_a_batch_is_split_and_answered_in_order(tmp_path: Path) -> None:
    async def main() -> tuple[InferResponse, TinyEngine]:
        engine = TinyEngine()
        async with serving(tmp_path, engine) as plane:
            return (await plane.infer(ask([KEYWORDS[i % 4] for i in range(150)]))).response, engine

    response, engine = asyncio.run(main())
    assert labels_of(response) == [LABELS[i % 4] for i in range(150)]
    assert len(engine.batches) > 1
    assert engine.rows_run() == 150


def test_every_output_can_be_asked_for_and_comes_in_the_order_asked(tmp_path: Path) -> None:
    names = ("truncated", "logits", "label", "tokens", "scores", "score")

    async def main() -> InferResponse:
        async with serving(tmp_path) as plane:
            return (await plane.infer(ask(["hello", "a " * 40], outputs=names))).response

    response = asyncio.run(main())
    assert tuple(tensor.name for tensor in response.outputs) == names
    assert [tensor.dtype for tensor in response.outputs] == ["BOOL", "FP32", "BYTES", "INT32", "FP32", "FP32"]
    outputs = outputs_of(response)
    assert outputs["truncated"] == [False, True]
    assert outputs["tokens"] == [3, 16]
    assert response.parameters["truncated_rows"] == 1
    assert response.parameters["engine"] == "tiny"
    assert outputs["score"] == pytest.approx([max(row) for row in outputs["scores"]])
    expected = tiny_logits(np.array([[2, token("hello"), 3]]), np.ones((1, 3), dtype=np.int64))[0]
    assert outputs["logits"][0] == pytest.approx(expected.tolist())


def test_token_inputs_are_cut_by_the_mask_and_answer_with_logits(tmp_path: Path) -> None:
    ids = np.array([[2, token("hello"), 3, 0], [2, token("a"), token("world"), 3]], dtype=np.int64)
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1]], dtype=np.int64)
    tensors = (Tensor("input_ids", "INT64", ids), Tensor("attention_mask", "INT64", mask))

    async def main() -> tuple[InferResponse, InferResponse]:
        async with serving(tmp_path) as plane:
            by_tokens = await plane.infer(InferRequest("tiny", tensors))
            by_text = await plane.infer(ask(["hello", "a world"], outputs=("logits",)))
            return by_tokens.response, by_text.response

    by_tokens, by_text = asyncio.run(main())
    assert outputs_of(by_tokens) == outputs_of(by_text)


def test_no_texts_give_no_rows_without_asking_the_engine(tmp_path: Path) -> None:
    engine = TinyEngine()

    async def main() -> tuple[InferResponse, dict[str, Any]]:
        async with serving(tmp_path, engine) as plane:
            names = ("label", "score", "scores", "tokens")
            response = (await plane.infer(ask([], outputs=names))).response
            return response, (await plane.predict("tiny", "", {"text": []})).answer

    response, answer = asyncio.run(main())
    assert [tensor.shape for tensor in response.outputs] == [(0,), (0,), (0, len(LABELS)), (0,)]
    assert answer == {"predictions": []}
    assert engine.batches == []


def test_plain_bodies_answer_with_the_default_outputs(tmp_path: Path) -> None:
    async def main() -> tuple[Any, Any]:
        async with serving(tmp_path) as plane:
            one = await plane.predict("tiny", "", {"text": "人"})
            many = await plane.predict("tiny", "1", {"text": ["hello", "world"]})
            assert one.parameters["engine"] == "tiny"
            return one.answer, many.answer

    one, many = asyncio.run(main())
    assert one["label"] == "问候"
    assert 0.5 < one["score"] <= 1.0
    assert [row["label"] for row in many["predictions"]] == ["hello", "world"]


def test_regression_answers_with_the_score_alone(tmp_path: Path) -> None:
    async def main() -> Any:
        async with serving(tmp_path, model=tiny_model(task=Task.REGRESSION)) as plane:
            return (await plane.predict("tiny", "", {"text": "hello hello"})).answer

    answer = asyncio.run(main())
    assert list(answer) == ["score"]
    assert answer["score"] > 7.0


def test_pairs_need_both_texts_and_count_the_tokens_of_both(tmp_path: Path) -> None:
    pair = (
        Tensor("text", "BYTES", np.array([b"hello"], dtype=object)),
        Tensor("text_pair", "BYTES", np.array([b"a a"], dtype=object)),
    )

    async def main() -> list[Any]:
        async with serving(tmp_path, model=tiny_model(pair=True)) as plane:
            with pytest.raises(InvalidInput, match="text_pair"):
                await plane.infer(ask(["hello"]))
            return outputs_of((await plane.infer(InferRequest("tiny", pair, outputs=("tokens",)))).response)["tokens"]

    assert asyncio.run(main()) == [6]


# -- time ------------------------------------------------------------------------------------------------------------


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


# -- faults ----------------------------------------------------------------------------------------------------------


async def gathered(plane: DataPlane, requests: Sequence[InferRequest]) -> list[InferResponse | NlpdeployError]:
    async def one(request: InferRequest) -> InferResponse | NlpdeployError:
        try:
            return (await plane.infer(request)).response
        except NlpdeployError as error:
            return error

    return await asyncio.gather(*map(one, requests))


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


def test_the_metrics_have_bounds_at_the_targets_and_no_texts(tmp_path: Path) -> None:
    async def main() -> str:
        async with serving(tmp_path) as plane:
            await plane.infer(ask(["hello notebook"]))
            with pytest.raises(NotFound):
                await plane.infer(InferRequest("made-up", ()))
            return plane.metrics.render().decode()

    text = asyncio.run(main())
    labels = 'engine="tiny",le="{}",model="tiny",outcome="ok",version="1"'
    for bound in ("0.045", "0.12"):
        assert f"nlpdeploy_request_seconds_bucket{{{labels.format(bound)}}} 1.0" in text
    assert 'nlpdeploy_unrouted_requests_total{outcome="NotFound"} 1.0' in text
    assert 'nlpdeploy_batch_token_budget{engine="tiny",model="tiny",version="1"} 4096.0' in text
    assert "process_resident_memory_bytes" in text
    assert "notebook" not in text
    assert "made-up" not in text


# -- life ------------------------------------------------------------------------------------------------------------


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


def test_warming_reaches_every_encoder_thread(tmp_path: Path) -> None:
    async def main() -> None:
        predictor = tiny_predictor(tmp_path)
        encoder = ThreadCounter(tmp_path / "tokenizer.json", 16)
        predictor.encoder = encoder
        plane = DataPlane(Capacity(encoder_threads=3))
        plane.add(predictor)
        await plane.warm()
        assert len(encoder.threads) == 3
        assert threading.get_ident() not in encoder.threads
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
