"""Packed rows from the checkpoint to the answer: single texts and pairs, alone and in company."""

import json

import numpy as np
import pytest

from nlpdeploy.bundle.specs import Layout
from nlpdeploy.cli.main import main
from nlpdeploy.export.checkpoint import read_checkpoint
from nlpdeploy.export.reference import TorchReference
from nlpdeploy.runtime import load
from nlpdeploy.runtime.calls import run_rows
from support.checkpoints import random_classifier, sample_sentences

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
