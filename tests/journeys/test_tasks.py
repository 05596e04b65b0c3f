"""Every task but the plain one, checkpoint to endpoint: several labels a text, a number, pairs of texts."""

from __future__ import annotations

import csv
import json
import urllib.request

import pytest

from nlpdeploy.cli.main import main
from support.checkpoints import const_head, random_classifier, sample_sentences
from support.cli import one_line, server

LABELS = ("refund", "delivery", "account", "other")


@pytest.fixture
def run(capsys, tmp_path):
    """Run a command on this test's store; its status, its object on standard output, its words on standard error."""

    def run_(*arguments):
        capsys.readouterr()
        status = main([*map(str, arguments), "--store", str(tmp_path / "store"), "--json"])
        streams = capsys.readouterr()
        return status, json.loads(streams.out) if streams.out else None, streams.err

    return run_


@pytest.fixture
def export(run):
    def export_(checkpoint, *options, engines="onnx-fp32"):
        status, result, _ = run("export", checkpoint, "--engines", engines, "--timing-seconds", 1, *options)
        return status, result

    return export_


def table(path, header, *rows):
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def get(address):
    with urllib.request.urlopen(address, timeout=10) as reply:
        return json.load(reply)


def post(address, value):
    request = urllib.request.Request(address, json.dumps(value).encode())
    return get(request)


def outputs_of(base):
    return {tensor["name"]: tensor["datatype"] for tensor in get(base)["outputs"]}


def inputs_of(base):
    return {tensor["name"] for tensor in get(base)["inputs"]}


def test_multi_label(export, run, tmp_path):
    checkpoint = random_classifier(tmp_path / "tags", labels=LABELS, problem_type="multi_label_classification")
    rows = [[text, ";".join(LABELS[: i % 4])] for i, text in enumerate(sample_sentences()[:40])]
    data = table(tmp_path / "data.csv", ["text", "tags"], *rows)
    status, result = export(checkpoint, "--data", data, "--text-column", "text", "--label-column", "tags")
    assert status == 0
    assert (result["task"], result["activation"]) == ("multi-label", "sigmoid")
    assert result["engines"][0]["accuracy"] == result["reference"]["accuracy"]
    assert "exact match" in result["choice"]

    text = rows[0][0]
    _, (answer,), _ = run("predict", "tags", text)
    assert set(answer["scores"]) == set(LABELS)
    assert answer["score"] == max(answer["scores"].values()) == answer["scores"][answer["label"]]
    with server("--store", tmp_path / "store", "--model", "tags") as ready:
        base = f"http://127.0.0.1:{ready['http_port']}/v2/models/tags"
        assert outputs_of(base).keys() >= {"label", "score", "scores", "logits"}
        served = post(f"{base}/predict", {"text": text})
        assert served == {"label": answer["label"], "score": pytest.approx(answer["score"], abs=1e-5)}


def test_regression_answers_the_head_s_own_number(export, run, tmp_path):
    checkpoint = const_head(tmp_path / "stars", [3.25], problem_type="regression")
    data = table(tmp_path / "data.csv", ["text", "stars"], ["hello world", "3"], ["a note book", "3.5"])
    status, result = export(checkpoint, "--data", data, "--text-column", "text", "--label-column", "stars")
    assert status == 0
    assert (result["task"], result["activation"]) == ("regression", "none")
    # Both are a quarter off, as wrong as the mean of the labels: nothing is explained.
    assert result["engines"][0]["accuracy"] == result["reference"]["accuracy"] == pytest.approx(0.0)
    _, (answer,), _ = run("predict", "stars", "hello")
    assert (answer["score"], answer["logits"]) == (3.25, [3.25])
    assert "label" not in answer
    with server("--store", tmp_path / "store", "--model", "stars") as ready:
        base = f"http://127.0.0.1:{ready['http_port']}/v2/models/stars"
        assert outputs_of(base).keys() >= {"score", "logits"}
        assert "label" not in outputs_of(base)
        assert post(f"{base}/predict", {"text": "hello"}) == {"score": 3.25}


def test_one_label_without_a_problem_type_goes_through_sigmoid_and_says_so(export, run, tmp_path):
    checkpoint = const_head(tmp_path / "odd", [3.25])
    status, result = export(checkpoint)
    assert status == 0
    assert result["activation"] == "sigmoid"
    assert any("sigmoid" in note and "--activation none" in note for note in result["notes"])
    _, (answer,), _ = run("predict", "odd", "hello")
    assert answer["score"] == pytest.approx(0.9627, abs=5e-5)
    _, manifest, _ = run("models", "show", "odd")
    assert manifest["source"]["notes"] == result["notes"]


def test_pairs(export, run, tmp_path):
    checkpoint = random_classifier(tmp_path / "entail", labels=("yes", "no"))
    sentences = sample_sentences()
    data = table(tmp_path / "data.csv", ["text", "other"], *zip(sentences[:20], sentences[20:40], strict=True))
    assert export(checkpoint, "--data", data, "--pair-column", "other")[0] == 0
    first, second = sentences[0], sentences[20]
    _, (answer,), _ = run("predict", "entail", first, "--pair", second)
    _, (turned,), _ = run("predict", "entail", second, "--pair", first)
    assert answer["tokens"] == turned["tokens"]
    assert answer["logits"] != turned["logits"]
    status, nothing, words = run("predict", "entail", first)
    assert (status, nothing) == (2, None)
    assert "text_pair" in one_line(words)
    with server("--store", tmp_path / "store", "--model", "entail") as ready:
        base = f"http://127.0.0.1:{ready['http_port']}/v2/models/entail"
        assert inputs_of(base) >= {"text", "text_pair"}
        served = post(f"{base}/predict", {"text": first, "text_pair": second})
        assert served == {"label": answer["label"], "score": pytest.approx(answer["score"], abs=1e-5)}


def test_a_proven_engine_that_loses_too_much_accuracy_is_not_published(export, run, tmp_path):
    checkpoint = random_classifier(tmp_path / "stars", labels=("stars",), problem_type="regression")
    assert export(checkpoint)[0] == 0
    texts = sample_sentences()
    _, answers, _ = run("predict", "stars", *texts)
    rows = [[text, answer["score"]] for text, answer in zip(texts, answers, strict=True)]
    data = table(tmp_path / "data.csv", ["text", "stars"], *rows)
    options = ("--name", "strict", "--data", data, "--label-column", "stars", "--max-accuracy-drop", 0)
    status, result = export(checkpoint, *options, engines="onnx-int8")
    # Right is what the checkpoint itself answers, so that any error of int8 is a loss.
    assert result["reference"]["accuracy"] == pytest.approx(1.0)
    assert status == 3
    assert (result["bundle"], result["default_engine"]) == (None, None)
    assert result["engines"][0]["state"] == "ready"
    assert "onnx-int8: loses 0." in result["choice"]
    evidence = tmp_path / "store.evidence"
    assert json.loads(next(evidence.rglob("parity.json")).read_text())["onnx-int8"]["passed"]
    assert not (tmp_path / "store/strict").exists()


def test_the_callers_tolerance_fails_an_engine_with_its_number(export, tmp_path):
    checkpoint = random_classifier(tmp_path / "shop")
    status, result = export(checkpoint, "--tolerance", 1e-9)
    assert status == 3
    (engine,) = result["engines"]
    assert (engine["state"], engine["tolerance"]) == ("failed", 1e-9)
    assert "exceeds 1e-09" in engine["reason"]
    assert engine["reason"] in result["choice"]


def test_an_engine_asked_for_that_is_missing_is_what_the_sentence_says(export, tmp_path):
    checkpoint = const_head(tmp_path / "shop", [0.0, 1.0])
    status, result = export(checkpoint, engines="onnx-fp32,tensorrt-fp16")
    assert status == 3
    assert (result["bundle"], result["default_engine"]) == (None, None)
    assert "tensorrt-fp16, which was asked for: skipped" in result["choice"]
    assert "serves" not in result["choice"]


def test_the_evidence_stands_beside_a_store_that_is_the_folder_itself(tmp_path, monkeypatch, capsys):
    checkpoint = const_head(tmp_path / "shop", [0.0, 1.0])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    options = ["--engines", "tensorrt-fp16", "--timing-seconds", "1", "--store", ".", "--json"]
    assert main(["export", str(checkpoint), *options]) == 3
    report = json.loads(capsys.readouterr().out)["report"]
    assert report.startswith(str(tmp_path / "here.evidence"))
