"""Packed rows from the checkpoint to the answer: single texts and pairs, alone and in company."""

import csv
import json
import random

import numpy as np
import pytest

from nlpdeploy.bundle.specs import Layout
from nlpdeploy.cli.main import main
from nlpdeploy.export.checkpoint import read_checkpoint
from nlpdeploy.export.reference import TorchReference
from nlpdeploy.runtime import load
from nlpdeploy.runtime.calls import run_rows
from support.checkpoints import random_classifier, sample_sentences
from support.shared import needs_shared

ENGINE = "openvino-f32-packed"


@pytest.mark.parametrize("pair", [False, True])
def test_a_packed_bundle_answers_as_the_checkpoint_does_alone_and_in_company(pair, tmp_path, capsys):
    checkpoint = random_classifier(tmp_path / "checkpoint")
    options = ["--engines", ENGINE, "--timing-seconds", "1", "--store", str(tmp_path / "store"), "--json"]
    status = main(["export", str(checkpoint), "--name", "packed", *options, *(["--pair"] if pair else [])])
    result = json.loads(capsys.readouterr().out)
    assert status == 0
    assert result["default_engine"] == ENGINE
    predictor = load(tmp_path / "store/packed", all_lanes=True)
    assert {engine.layout for engine in predictor.lanes} == {Layout.PACKED}
    texts = sample_sentences()[:24]
    rows = predictor.encode(texts, texts[::-1] if pair else None)
    reference = TorchReference(read_checkpoint(checkpoint, pair=pair), threads=1)
    want = np.concatenate([run_rows(reference, [row], predictor.model) for row in rows])
    together = predictor.logits(rows)
    alone = np.concatenate([predictor.logits([row]) for row in rows])
    np.testing.assert_allclose(together, want, atol=1e-4 * np.abs(want).max())
    np.testing.assert_allclose(alone, together, atol=1e-5 * np.abs(want).max())
    assert len(set(want.argmax(axis=1))) > 1
    predictor.close()


@needs_shared
def test_int8_products_give_a_text_the_same_answer_in_any_company(english):
    int8 = ("openvino-int8-packed", "onnx-int8-packed")  # the second is built where this CPU has not the first
    found = next(e for e in english.result["engines"] if e["id"] in int8 and e["state"] != "skipped")
    engine = found["id"]
    tips = 1e-4 if found["runtime"] == "openvino" else 0.05  # ONNX Runtime's fp32 sums can tip a state's last step
    assert found["agreement"] >= 0.995
    predictor = load(english.store / english.name, engine=engine)
    with english.data.open(encoding="utf-8", newline="") as stream:
        texts = [row["text"] for row in csv.DictReader(stream)][:96]
    rows = predictor.encode(texts)
    alone = np.concatenate([run_rows(predictor.engine, [row], predictor.model) for row in rows])
    for size, order in ((2, range(96)), (16, range(96)), (16, random.Random(5).sample(range(96), 96))):
        for begin in range(0, 96, size):
            company = list(order)[begin : begin + size]
            together = run_rows(predictor.engine, [rows[index] for index in company], predictor.model)
            np.testing.assert_allclose(together, alone[company], atol=tips)
            np.testing.assert_array_equal(together.argmax(axis=1), alone[company].argmax(axis=1))
    predictor.close()
