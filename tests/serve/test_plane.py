"""The data plane end to end with small engines: each caller gets its own rows, in every form."""

import asyncio
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nlpdeploy.bundle.errors import (
    InvalidInput,
    NotFound,
)
from nlpdeploy.bundle.specs import Task
from nlpdeploy.wire.tensors import InferRequest, InferResponse, Tensor
from support.engines import KEYWORDS, LABELS, TinyEngine, tiny_logits, tiny_model, token
from support.planes import ask, labels_of, outputs_of, serving


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
