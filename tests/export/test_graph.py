"""The exported graph answers as PyTorch does, whatever the shape, and is fused wholly for every architecture."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from nlpdeploy.bundle.errors import EngineFailed
from nlpdeploy.bundle.specs import TensorSpec
from nlpdeploy.export.architectures import ARCHITECTURES
from nlpdeploy.export.checkpoint import load_torch, read_checkpoint
from nlpdeploy.export.exporters import EXPORTERS
from nlpdeploy.export.graph import export_graph
from nlpdeploy.export.passes.int8 import quantise
from support.checkpoints import random_classifier

SHAPES = ((1, 1), (1, 2), (3, 7), (2, 31), (5, 13))


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = read_checkpoint(random_classifier(folder / "checkpoint", model_type=request.param))
    module = load_torch(checkpoint)
    (folder / "work").mkdir()
    return checkpoint, module, export_graph(module, checkpoint, folder / "work")


def feeds(checkpoint, rows, length, seed=0):
    """Random rows; every second one padded to the right, and one with a hole in the mask."""
    random = np.random.default_rng(seed)
    ids = random.integers(5, 60, (rows, length))
    mask = np.ones((rows, length), dtype=np.int64)
    for row in range(1, rows, 2):
        kept = random.integers(1, length + 1)
        mask[row, kept:] = 0
        ids[row, kept:] = checkpoint.model.pad_id
    mask[0, 1 : length - 1 : 3] = 0
    whole = {"input_ids": ids, "attention_mask": mask, "token_type_ids": random.integers(0, 2, (rows, length))}
    return {name: whole[name] for name in checkpoint.inputs}


def torch_logits(module, feed):
    with torch.inference_mode():
        return module(**{name: torch.from_numpy(value) for name, value in feed.items()}).logits.numpy()


@pytest.mark.parametrize("file", ["file", "fused"])
def test_the_graph_answers_as_pytorch_does_in_every_shape(exported, file):
    checkpoint, module, graph = exported
    session = ort.InferenceSession(str(getattr(graph, file)), providers=["CPUExecutionProvider"])
    longest = (2, checkpoint.model.max_length)
    for shape in (*SHAPES, longest):
        feed = feeds(checkpoint, *shape)
        want = torch_logits(module, feed)
        assert np.abs(want).max() > 0.1
        np.testing.assert_allclose(session.run(["logits"], feed)[0], want, atol=1e-4 * np.abs(want).max())


def test_every_layer_is_fused(exported):
    _, _, graph = exported
    assert graph.layers == 2
    assert graph.fusion.whole
    if not graph.fusion.fusible:
        assert str(graph.fusion).startswith("attention 0 of 2 (no fused operator knows it), normalisation 4 of 4, Gelu")
        return
    assert str(graph.fusion).startswith("attention 2 of 2, normalisation 4 of 4, Gelu")
    left = {node.op_type for node in onnx.load(str(graph.fused)).graph.node}
    assert not left & {"Softmax", "Erf", "ReduceMean"}


def test_int8_of_the_fused_graph_is_near(exported, tmp_path):
    checkpoint, module, graph = exported
    sizes = {"layers": graph.layers, "hidden_size": graph.hidden_size}
    products = quantise(graph.fused, tmp_path / "int8.onnx", **sizes, narrow_sums=True)  # exact on every CPU
    assert products >= 4 * graph.layers
    session = ort.InferenceSession(str(tmp_path / "int8.onnx"), providers=["CPUExecutionProvider"])
    feed = feeds(checkpoint, 5, 13)
    want = torch_logits(module, feed)
    errors = np.abs(session.run(["logits"], feed)[0] - want)
    assert errors.mean() < 0.1 * np.abs(want).max()  # weights this wide let single rows tip


def test_inputs_and_outputs_are_declared_free_in_batch_and_length(exported):
    checkpoint, _, graph = exported
    assert graph.inputs == tuple(TensorSpec(name, "INT64", (-1, -1)) for name in checkpoint.inputs)
    assert graph.outputs == (TensorSpec("logits", "FP32", (-1, 4)),)
    model = onnx.load(str(graph.file))
    values = (*model.graph.input, *model.graph.output)
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in values} == {"batch"}


def test_a_model_without_segments_gets_no_segment_input(tmp_path):
    folder = random_classifier(tmp_path / "checkpoint", type_vocab_size=1)
    checkpoint = read_checkpoint(folder)
    (tmp_path / "work").mkdir()
    graph = export_graph(load_torch(checkpoint), checkpoint, tmp_path / "work")
    assert [spec.name for spec in graph.inputs] == ["input_ids", "attention_mask"]
    assert graph.fusion.whole


def test_the_module_stays_in_eval_mode(exported):
    _, module, _ = exported
    assert not any(part.training for part in module.modules())


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    checkpoint = read_checkpoint(random_classifier(tmp_path_factory.mktemp("bert") / "checkpoint"))
    return checkpoint, load_torch(checkpoint)


def test_torch_export_steps_in_with_the_same_answers_where_the_tracer_fails(bert, tmp_path, monkeypatch):
    checkpoint, module = bert
    monkeypatch.setattr("nlpdeploy.export.graph.EXPORTERS", EXPORTERS[1:])
    graph = export_graph(module, checkpoint, tmp_path)
    assert graph.exporter.startswith("torch.export")
    session = ort.InferenceSession(str(graph.file), providers=["CPUExecutionProvider"])
    for shape in SHAPES:
        feed = feeds(checkpoint, *shape)
        want = torch_logits(module, feed)
        np.testing.assert_allclose(session.run(["logits"], feed)[0], want, atol=1e-4 * np.abs(want).max())


def test_a_model_that_no_exporter_can_take_is_one_line_with_what_each_said(bert, tmp_path):
    checkpoint, module = bert

    class Refusing(torch.nn.Module):
        config = module.config

        def forward(self, **inputs):
            raise RuntimeError("this layer can't be traced")

    with pytest.raises(EngineFailed) as caught:
        export_graph(Refusing(), checkpoint, tmp_path)
    line = str(caught.value)
    assert "tracer: RuntimeError: this layer can't be traced" in line
    assert "torch.export: " in line
    assert "\n" not in line
