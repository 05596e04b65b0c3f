"""Packed graphs for ONNX Runtime answer as the checkpoint does for each text alone, fused in every layer."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
import torch

from nlpdeploy.bundle.errors import EngineFailed
from nlpdeploy.bundle.specs import Layout, TensorSpec
from nlpdeploy.export.builders import BUILDERS
from nlpdeploy.export.builders import onnx as onnx_builders
from nlpdeploy.export.checkpoint import load_torch, read_checkpoint
from nlpdeploy.export.exporters import EXPORTERS
from nlpdeploy.export.graph import export_packed
from nlpdeploy.export.packed import checked_pack
from nlpdeploy.runtime.batching import lay_out
from nlpdeploy.runtime.engine import EngineOptions
from nlpdeploy.runtime.onnxruntime import load_engine
from nlpdeploy.runtime.text import Row
from support.checkpoints import MODEL_TYPES, random_classifier

ENGINE = "onnx-int8-packed"
LENGTHS = (1, 9, 2, 30, 5, 17, 44, 3)
ROWS = [
    Row(np.random.default_rng(length).integers(5, 60, length), np.zeros(length, dtype=np.int64)) for length in LENGTHS
]
COMPANIES = ([0], [3], [1, 2], [4, 3, 0], list(range(8)), [7, 7, 2])


@pytest.fixture(scope="module", params=MODEL_TYPES)
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return read_checkpoint(random_classifier(folder / "checkpoint", model_type=request.param, spread=0.1))


def work(checkpoint, folder):
    """As much of a graph as packed engines are made from."""
    (folder / "work").mkdir()
    return SimpleNamespace(checkpoint=checkpoint, file=folder / "work" / "tracer" / "model.onnx")


def packed(checkpoint, folder):
    types = "token_type_ids" in checkpoint.inputs
    made = checked_pack(load_torch(checkpoint), ROWS, checkpoint.model.pad_id, token_types=types)
    return export_packed(made, ROWS, checkpoint, folder)


def alone(checkpoint):
    """Logits [rows, classes] by the untouched checkpoint, text by text."""
    module = load_torch(checkpoint)
    found = []
    for row in ROWS:
        whole = {"input_ids": row.input_ids, "attention_mask": np.ones(len(row), np.int64)}
        whole["token_type_ids"] = row.token_type_ids
        with torch.inference_mode():
            feed = {name: torch.from_numpy(whole[name][None]) for name in checkpoint.inputs}
            found.append(module(**feed).logits.numpy())
    return np.concatenate(found)


def test_a_packed_graph_is_fused_and_answers_as_each_text_alone(checkpoint, tmp_path):
    made = packed(checkpoint, tmp_path)
    assert made.fusion.whole, made.exporter
    assert made.fusion.attention == (2 if made.fusion.fusible else 0)
    want = alone(checkpoint)
    for file in (made.file, made.fused):
        session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        for company in COMPANIES:
            feed = lay_out([ROWS[i] for i in company], Layout.PACKED, made.inputs, checkpoint.model.pad_id)
            got = session.run(["logits"], feed)[0]
            np.testing.assert_allclose(got, want[company], atol=1e-4 * np.abs(want).max())


def test_int8_gives_a_text_the_same_answer_in_any_company(checkpoint, tmp_path):
    entry = BUILDERS[ENGINE].build(work(checkpoint, tmp_path), tmp_path, ROWS)
    assert (entry.layout, entry.runtime, entry.precision) == (Layout.PACKED, "onnxruntime", "int8")
    engine = load_engine(entry, tmp_path / entry.file, EngineOptions(threads=1))
    answers = [
        engine.run(lay_out([ROWS[i] for i in company], Layout.PACKED, entry.inputs, checkpoint.model.pad_id))["logits"]
        for company in ([0], [1], [2], [3], [4], [5], [6], [7], list(range(8)), [7, 6, 5, 4, 3, 2, 1, 0])
    ]
    engine.close()
    each, together, reversed_ = np.concatenate(answers[:8]), answers[8], answers[9]
    want = alone(checkpoint)
    size = np.abs(want).max()
    assert 0 < np.abs(each - want).mean() < 0.1 * size
    np.testing.assert_allclose(together, each, atol=0.02 * size)  # a rounding may tip to the other step
    np.testing.assert_allclose(reversed_[::-1], together, atol=0.02 * size)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return read_checkpoint(random_classifier(tmp_path_factory.mktemp("bert") / "checkpoint"))


def test_torch_export_makes_the_same_of_a_packed_classifier(bert, tmp_path, monkeypatch):
    monkeypatch.setattr("nlpdeploy.export.graph.EXPORTERS", EXPORTERS[1:])
    made = packed(bert, tmp_path)
    assert made.exporter.startswith("torch.export")
    want = alone(bert)
    session = ort.InferenceSession(str(made.file), providers=["CPUExecutionProvider"])
    for company in COMPANIES:
        feed = lay_out([ROWS[i] for i in company], Layout.PACKED, made.inputs, bert.model.pad_id)
        np.testing.assert_allclose(session.run(["logits"], feed)[0], want[company], atol=1e-4 * np.abs(want).max())


def test_inputs_and_outputs_are_declared_free_in_tokens_and_texts(bert, tmp_path):
    made = packed(bert, tmp_path)
    rows = [TensorSpec(n, "INT64", (1, -1)) for n in ("input_ids", "position_ids", "segment_ids", "token_type_ids")]
    assert made.inputs == (*rows, TensorSpec("first_tokens", "INT64", (-1,)))
    assert made.outputs == (TensorSpec("logits", "FP32", (-1, 4)),)


def test_a_packed_graph_that_is_not_fused_wholly_is_refused(bert, tmp_path, monkeypatch):
    made = packed(bert, tmp_path)
    loose = replace(made, fusion=replace(made.fusion, attention=0))
    monkeypatch.setattr(onnx_builders, "export_packed", lambda *given: loose)
    with pytest.raises(EngineFailed, match=r"onnx-int8-packed: .*attention 0 of 2"):
        BUILDERS[ENGINE].build(work(bert, tmp_path), tmp_path, ROWS)
    assert not (tmp_path / "engines").exists()
