"""Architectures whose layers are not BERT's, as ALBERT's that share their weights: from checkpoint to answer."""

from types import SimpleNamespace

import numpy as np
import pytest

from nlpdeploy.bundle.specs import EngineState
from nlpdeploy.bundle.store import Store
from nlpdeploy.export.checkpoint import read_checkpoint
from nlpdeploy.export.pipeline import export_checkpoint
from nlpdeploy.export.reference import TorchReference
from nlpdeploy.export.request import ExportRequest
from nlpdeploy.runtime import load
from nlpdeploy.runtime.calls import run_rows
from support.checkpoints import random_classifier, sample_sentences

ENGINES = ("onnx-fp32", "openvino-f32", "openvino-f32-packed")
FUSED = {
    "albert": "attention 2 of 2, normalisation 4 of 4",
    "modernbert": "attention 0 of 2 (no fused operator knows it), normalisation 4 of 4",
    "deberta-v2": "attention 0 of 2 (no fused operator knows it), normalisation 4 of 4",
}
"""What the manifest says of ONNX Runtime's graph."""


@pytest.fixture(scope="module", params=FUSED)
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = random_classifier(folder / "checkpoint", model_type=request.param)
    store = Store(folder / "store")
    result = export_checkpoint(ExportRequest(checkpoint, store, "own", engines=ENGINES, timing_seconds=0.2))
    return SimpleNamespace(kind=request.param, checkpoint=read_checkpoint(checkpoint), result=result)


def test_every_engine_passes_its_proof_and_the_bundle_is_published(exported):
    entries = exported.result.manifest.engines
    assert {entry.id: (entry.state, entry.reason) for entry in entries} == dict.fromkeys(
        ENGINES, (EngineState.READY, None)
    )
    assert exported.result.reference is not None
    assert exported.result.manifest.source.model_type == exported.kind


def test_the_manifest_says_how_much_is_fused(exported):
    entry = next(entry for entry in exported.result.manifest.engines if entry.id == "onnx-fp32")
    assert entry.options["fused"].startswith(FUSED[exported.kind])


@pytest.mark.parametrize("engine", ENGINES)
def test_the_bundle_answers_as_the_checkpoint_does_alone_and_in_company(exported, engine):
    texts = sample_sentences()[:16]
    predictor = load(exported.result.reference.path, engine=engine)
    rows = predictor.encode(texts)
    reference = TorchReference(exported.checkpoint, threads=1)
    want = np.concatenate([run_rows(reference, [row], predictor.model) for row in rows])
    reference.close()
    labels = [exported.checkpoint.model.labels[best] for best in want.argmax(axis=1)]
    assert len(set(labels)) > 1, "texts must get different labels, or a mixed-up one would not show"
    np.testing.assert_allclose(predictor.logits(rows), want, atol=1e-4 * np.abs(want).max())
    assert [answer.label for answer in predictor(texts)] == labels
    predictor.close()
