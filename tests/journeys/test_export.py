"""Checkpoint -> bundle on the real checkpoints."""

import json

import pytest

from support.checkpoints import random_classifier
from support.cli import nlpdeploy
from support.shared import needs_shared

pytestmark = [needs_shared, pytest.mark.timeout(900)]

ENGINE_KEYS = {
    "id", "runtime", "precision", "state", "reason", "size_bytes", "max_abs_error", "agreement", "flips", "flip_bound",
    "accuracy", "p50_ms", "p95_ms", "speedup",
}  # fmt: skip


def ready(result):
    return {engine["id"]: engine for engine in result["engines"] if engine["state"] == "ready"}


@pytest.mark.parametrize(("subject", "accuracy"), [("english", 0.9222), ("chinese", 0.816)])
def test_three_engines_are_ready_and_fp32_is_as_accurate_as_the_checkpoint(subject, accuracy, request):
    result = request.getfixturevalue(subject).result
    engines = ready(result)
    assert len(engines) >= 3
    assert result["reference"]["accuracy"] == pytest.approx(accuracy, abs=0.001)
    assert engines["onnx-fp32"]["accuracy"] == pytest.approx(accuracy, abs=0.001)
    chosen = engines[result["default_engine"]]
    assert chosen["accuracy"] >= result["reference"]["accuracy"] - 0.005


@pytest.mark.parametrize("subject", ["english", "chinese"])
def test_the_json_has_the_keys_that_others_build_on(subject, request):
    result = request.getfixturevalue(subject).result
    assert {"bundle", "path", "digest", "task", "seconds", "default_engine", "reference", "engines", "report"} <= set(
        result
    )
    assert {"accuracy", "p50_ms"} <= set(result["reference"])
    for engine in result["engines"]:
        assert set(engine) >= ENGINE_KEYS
        assert engine["state"] != "ready" or engine["p50_ms"] > 0


def test_the_chinese_model_has_512_usable_tokens_and_whole_labels(chinese):
    assert chinese.result["max_length"] == 512
    assert chinese.result["labels"] == ["负面", "正面"] or set(chinese.result["labels"]) == {"正面", "负面"}


def test_predict_names_the_intent(english):
    done = nlpdeploy("predict", "intent", "I lost my card", "--store", english.store)
    assert done.stdout.split("\t")[0] == "lost_or_stolen_card"


def test_predict_json_has_all_outputs(chinese):
    done = nlpdeploy("predict", "reviews", "-", "--store", chinese.store, "--json", input="很好,下次还来\n太差了\n")
    answers = json.loads(done.stdout)
    assert len(answers) == 2
    for answer in answers:
        assert answer["label"] in chinese.result["labels"]
        assert set(answer["scores"]) == set(chinese.result["labels"])
        assert len(answer["logits"]) == 2
        assert not answer["truncated"]


def test_the_manifest_and_the_evidence_say_the_same_numbers_as_the_table(english):
    done = nlpdeploy("models", "show", "intent", "--store", english.store, "--json")
    manifest = json.loads(done.stdout)
    assert manifest["digest"] == english.result["digest"]
    shown_and_kept = list(zip(english.result["engines"], manifest["engines"], strict=True))
    for shown, entry in shown_and_kept:
        assert (shown["id"], shown["state"], shown["reason"]) == (entry["id"], entry["state"], entry["reason"])
        if shown["state"] == "ready":
            assert shown["p50_ms"] == entry["latency"]["p50_ms"]
            assert shown["accuracy"] == entry["accuracy"]["accuracy"]
    table = nlpdeploy("models", "show", "intent", "--store", english.store).stderr
    for shown in ready(english.result).values():
        row = next(line for line in table.splitlines() if line.startswith(shown["id"]))
        numbers = (f"{shown['accuracy']:.4f}", f"{shown['p50_ms']:.2f}", f"{shown['p95_ms']:.2f}")
        assert all(text in row for text in (*numbers, f"{shown['speedup']:.1f} x"))
        assert len(row) <= 100


def test_an_engine_that_can_not_be_built_here_is_named_and_nothing_is_published(tmp_path):
    checkpoint = random_classifier(tmp_path / "checkpoint")
    done = nlpdeploy(
        "export", checkpoint, "--name", "intent", "--engines", "onnx-fp32,tensorrt-fp16", "--store", tmp_path / "store",
        "--timing-seconds", 1, "--json",
    )  # fmt: skip
    assert done.returncode == 3
    result = json.loads(done.stdout)
    assert result["bundle"] is None
    skipped = next(engine for engine in result["engines"] if engine["id"] == "tensorrt-fp16")
    assert skipped["state"] == "skipped"
    assert "TensorRT" in skipped["reason"]
    assert nlpdeploy("models", "list", "--store", tmp_path / "store", "--json").stdout.count("digest") == 0
    assert (tmp_path / "store.evidence").is_dir()
    assert json.loads(next((tmp_path / "store.evidence").rglob("parity.json")).read_text())["onnx-fp32"]["passed"]
