"""Loading real published bundles: which engine serves, what is refused, how many lanes, what is answered."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from nlpdeploy.bundle.errors import CorruptBundle, EngineFailed, EngineUnavailable, InvalidInput, NotFound
from nlpdeploy.bundle.manifest import EngineEntry, Manifest
from nlpdeploy.bundle.specs import EngineState, Task
from nlpdeploy.bundle.store import Store
from nlpdeploy.runtime import Answer, load
from nlpdeploy.runtime.calls import run_rows
from nlpdeploy.runtime.cores import usable_cores
from nlpdeploy.runtime.lanes import fill_cores
from nlpdeploy.runtime.predictor import bundle_folder, lone_threads
from support.engines import KEYWORDS, LABELS, TinyEngine, tiny_model, tiny_predictor
from support.tiny_bundle import MODEL_FILE, publish_tiny_bundle


def with_default(**changes: object) -> Callable[[Manifest], Manifest]:
    """Puts another default engine before the tiny one, which differs from it by ``changes``."""

    def change(manifest: Manifest) -> Manifest:
        (tiny,) = manifest.engines
        odd = dataclasses.replace(tiny, id="odd", **changes)
        return dataclasses.replace(manifest, engines=(odd, tiny), default_engine="odd")

    return change


def with_wrong_golden(manifest: Manifest) -> Manifest:
    first, *others = manifest.golden
    wrong = dataclasses.replace(first, logits=tuple(value + 1.0 for value in first.logits))
    return dataclasses.replace(manifest, golden=(wrong, *others))


# -- answers ---------------------------------------------------------------------------------------------------------


def test_a_loaded_bundle_answers_texts_in_order(tmp_path: Path) -> None:
    predictor = load(publish_tiny_bundle(tmp_path).path)
    answers = predictor([*KEYWORDS, "a " * 40])
    assert [answer.label for answer in answers[:4]] == list(LABELS)
    assert all(answer.score == answer.scores[str(answer.label)] for answer in answers)
    assert sum(answers[0].scores.values()) == pytest.approx(1.0)
    assert [answer.truncated for answer in answers] == [False] * 4 + [True]
    assert predictor([]) == []


def test_many_texts_of_all_lengths_answer_as_each_alone(tmp_path: Path) -> None:
    predictor = load(publish_tiny_bundle(tmp_path).path)
    texts = [f"{KEYWORDS[i % 4]} {'a ' * (i % 13)}" for i in range(90)]
    alone = [predictor([text])[0] for text in texts]
    for one, among in zip(alone, predictor(texts), strict=True):
        assert (one.label, one.score) == (among.label, pytest.approx(among.score, abs=1e-6))


def test_one_string_is_refused_instead_of_being_read_letter_by_letter(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="a list of strings"):
        tiny_predictor(tmp_path)("hello")


def test_second_texts_come_exactly_where_the_model_wants_them(tmp_path: Path) -> None:
    single = tiny_predictor(tmp_path)
    pairs = tiny_predictor(tmp_path, model=tiny_model(pair=True))
    assert pairs(["hello"], ["a a"])[0].label == "hello"
    with pytest.raises(InvalidInput, match="text_pair"):
        single(["hello"], ["a"])
    with pytest.raises(InvalidInput, match="text_pair"):
        pairs(["hello"])
    with pytest.raises(InvalidInput, match="as many as text"):
        pairs(["hello", "world"], ["a"])


def test_regression_answers_with_a_value_alone(tmp_path: Path) -> None:
    predictor = tiny_predictor(tmp_path, model=tiny_model(task=Task.REGRESSION))
    (answer,) = predictor(["hello hello"])
    assert answer == Answer(label=None, score=answer.score, scores={}, truncated=False)
    assert answer.score > 7.0


def test_a_row_that_is_not_finite_is_never_an_answer(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="NaN or infinity in 1 of 2 rows"):
        tiny_predictor(tmp_path, TinyEngine(nan_word="book"))(["hello", "book a"])


# -- which engine ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{"runtime": "abacus"}, {"file": "tokenizer/tokenizer.json"}], ids=["unknown runtime", "no model"]
)
def test_a_default_engine_that_cannot_run_here_is_replaced_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, object]
) -> None:
    path = publish_tiny_bundle(tmp_path, change=with_default(**changes)).path
    with caplog.at_level(logging.WARNING):
        predictor = load(path)
    assert predictor.engine.id == "onnx-fp32"
    assert predictor(["world"])[0].label == "world"
    assert "engine odd can't serve here, the next one takes over" in caplog.text


def test_an_engine_asked_for_is_never_replaced(tmp_path: Path) -> None:
    path = publish_tiny_bundle(tmp_path, change=with_default(runtime="abacus")).path
    with pytest.raises(EngineUnavailable, match="abacus"):
        load(path, engine="odd")
    assert load(path, engine="onnx-fp32").engine.id == "onnx-fp32"


def test_an_engine_that_is_not_ready_serves_neither_by_default_nor_asked_for(tmp_path: Path) -> None:
    change = with_default(state=EngineState.FAILED, reason="logits off by 3")
    path = publish_tiny_bundle(tmp_path, change=change).path
    assert load(path).engine.id == "onnx-fp32"
    with pytest.raises(EngineUnavailable, match=r"engine odd is failed; found logits off by 3"):
        load(path, engine="odd")


def test_an_engine_that_is_not_in_the_bundle_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"found trt; wanted one of onnx-fp32"):
        load(publish_tiny_bundle(tmp_path).path, engine="trt")


def test_answers_other_than_the_golden_ones_keep_an_engine_from_serving(tmp_path: Path) -> None:
    path = publish_tiny_bundle(tmp_path, change=with_wrong_golden).path
    with pytest.raises(EngineFailed, match="does not reproduce its golden samples"):
        load(path, engine="onnx-fp32")
    with pytest.raises(EngineUnavailable, match=r"no engine of tiny runs here.*golden samples"):
        load(path)


def test_a_changed_file_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    path = publish_tiny_bundle(tmp_path).path
    with (path / MODEL_FILE).open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(CorruptBundle, match=r"changed: engines/onnx-fp32/model\.onnx"):
        load(path)


# -- which folder ----------------------------------------------------------------------------------------------------


def test_a_bundle_is_found_by_its_own_folder_and_by_the_folder_of_its_name(tmp_path: Path) -> None:
    for _ in range(2):
        publish_tiny_bundle(tmp_path)
    assert bundle_folder(tmp_path / "tiny/1") == tmp_path / "tiny/1"
    assert bundle_folder(tmp_path / "tiny") == tmp_path / "tiny/2"
    Store(tmp_path).promote("tiny/1")
    assert bundle_folder(tmp_path / "tiny") == tmp_path / "tiny/1"


def test_the_working_folder_may_be_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(publish_tiny_bundle(tmp_path).path)
    assert load(".")(["note"])[0].label == "note"


@pytest.mark.parametrize("wrong", ["nothing", "tiny/7", "tiny/seven"])
def test_a_folder_without_a_bundle_is_not_found(tmp_path: Path, wrong: str) -> None:
    publish_tiny_bundle(tmp_path)
    with pytest.raises(NotFound):
        load(tmp_path / wrong)


# -- threads and lanes -----------------------------------------------------------------------------------------------


def test_a_lone_text_gets_the_threads_that_export_measured_on_as_many_cores(tmp_path: Path) -> None:
    measured = EngineEntry(
        "e", "r", "fp32", TinyEngine.layout, EngineState.READY, options={"lone_threads": 2, "cores": 8}
    )
    assert lone_threads(measured, cores=8) == 2
    assert lone_threads(measured, cores=4) == 4
    assert lone_threads(dataclasses.replace(measured, options={}), cores=8) == 8


def test_lanes_fill_the_cores_and_each_answers_for_itself(tmp_path: Path) -> None:
    path = publish_tiny_bundle(tmp_path).path
    assert len(load(path, threads=1).lanes) == 1
    predictor = load(path, threads=1, all_lanes=True)
    assert len(predictor.lanes) == usable_cores()
    assert len(load(path, threads=usable_cores() + 1, all_lanes=True).lanes) == 1
    rows = predictor.encode(["hello", "world"])
    for engine in predictor.lanes:
        assert run_rows(engine, rows, predictor.model).argmax(axis=1).tolist() == [0, 1]
    predictor.close()
    predictor.close()
    for engine in predictor.lanes:
        with pytest.raises(EngineFailed, match="closed"):
            run_rows(engine, rows, predictor.model)


@pytest.mark.parametrize(
    ("threads", "cores", "lanes"),
    [(1, 1, (1, 1)), (1, 2, (2, 1)), (2, 2, (1, 2)), (4, 2, (1, 4)), (1, 4, (4, 1)), (1, 64, (4, 16)), (3, 8, (2, 4))],
)
def test_lanes_fill_the_cores_and_are_at_most_four(threads, cores, lanes):
    assert fill_cores(threads, cores) == lanes
