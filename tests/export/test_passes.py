"""Passes change how a graph computes, not what it answers; and they count."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from nlpdeploy.bundle.errors import EngineFailed
from nlpdeploy.export.checkpoint import load_torch, read_checkpoint
from nlpdeploy.export.graph import export_graph
from nlpdeploy.export.passes import files
from nlpdeploy.export.passes.attention import split_attention
from nlpdeploy.export.passes.fuse import fuse
from nlpdeploy.export.passes.int8 import quantise, quantise_channels
from support.checkpoints import random_classifier

SIZES = {"layers": 2, "hidden_size": 64, "heads": 2}
INT8 = {"hidden_size": 64, "narrow_sums": True}  # exact on every CPU


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    folder = tmp_path_factory.mktemp("passes")
    checkpoint = read_checkpoint(random_classifier(folder / "checkpoint"))
    (folder / "work").mkdir()
    exported = export_graph(load_torch(checkpoint), checkpoint, folder / "work")
    assert {name: getattr(exported, name) for name in SIZES} == SIZES
    return exported


def answers(file, ids, mask=None):
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    feed = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids) if mask is None else mask,
        "token_type_ids": np.zeros_like(ids),
    }
    return session.run(["logits"], feed)[0]


def ids(rows, length, seed=0):
    return np.random.default_rng(seed).integers(5, 60, (rows, length))


def test_a_graph_that_is_not_fused_wholly_says_which_part(graph, tmp_path):
    model = onnx.load(str(graph.file))
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    softmax.op_type = "Hardmax"
    onnx.save(model, str(tmp_path / "odd.onnx"))
    fusion = fuse(tmp_path / "odd.onnx", tmp_path / "fused.onnx", **SIZES)
    assert not fusion.whole
    assert str(fusion).startswith("attention 1 of 2, normalisation 4 of 4")


def test_splitting_attention_changes_no_answer(graph, tmp_path):
    model = split_attention(onnx.load(str(graph.fused)), SIZES["hidden_size"])
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("MultiHeadAttention") == 2
    assert "Attention" not in kinds
    onnx.save(model, str(tmp_path / "split.onnx"))
    mask = np.ones((3, 9), dtype=np.int64)
    mask[1, 4:] = 0
    want = answers(graph.fused, ids(3, 9), mask)
    np.testing.assert_allclose(answers(tmp_path / "split.onnx", ids(3, 9), mask), want, atol=1e-5 * np.abs(want).max())


@pytest.fixture(scope="module")
def int8(graph, tmp_path_factory):
    file = tmp_path_factory.mktemp("int8") / "model.onnx"
    assert quantise(graph.fused, file, layers=2, **INT8) == 8
    return file


def test_int8_holds_every_matrix_product_of_the_layers(graph, int8):
    model = onnx.load(str(int8))
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("MatMulIntegerToFloat") == 8
    assert "MatMul" not in kinds
    names = {tensor.name for tensor in model.graph.initializer}
    assert names == {name for node in model.graph.node for name in node.input} & names
    assert int8.stat().st_size < graph.fused.stat().st_size


def test_int8_answers_near_fp32(graph, int8):
    want = answers(graph.fused, ids(16, 20))
    got = answers(int8, ids(16, 20))
    errors, size = np.abs(got - want), np.abs(want).max()
    assert 0 < errors.max() < 0.15 * size
    assert errors.mean() < 0.03 * size


@pytest.mark.parametrize(("activation", "smallest_step"), [("Gelu", 0.1701 / 32), ("Relu", 0.0), (None, 0.0)])
def test_a_products_states_are_off_by_half_a_step_at_most(activation, smallest_step, tmp_path):
    """The product is with the unit matrix, whose int8 weights are exact: what comes out are the states."""
    names = ["x", *(["states"] if activation else []), "y"]
    domain = "com.microsoft" if activation == "Gelu" else ""
    nodes = [onnx.helper.make_node(activation, ["x"], ["states"], domain=domain)] if activation else []
    nodes.append(onnx.helper.make_node("MatMul", [names[-2], "unit"], ["y"], "product"))
    unit = onnx.numpy_helper.from_array(np.eye(64, dtype=np.float32), "unit")
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, None, 64]) for name in ("x", "y")]
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    graph = onnx.helper.make_graph(nodes, "one product", values[:1], values[1:], [unit])
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), str(tmp_path / "fp32.onnx"))
    assert quantise(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", layers=0, **INT8) == 1
    x = np.random.default_rng(1).normal(size=(1, 40, 64)).astype(np.float32) * np.geomspace(0.01, 100, 40)[:, None]
    x[0, :2] = [[0.0], [-0.7518]]  # a token of zeros, and one where Gelu is at its lowest
    feed = {"x": x.astype(np.float32)}
    want, got = (
        ort.InferenceSession(str(tmp_path / file), providers=["CPUExecutionProvider"]).run(None, feed)[0]
        for file in ("fp32.onnx", "int8.onnx")
    )
    steps = {"Gelu": 255 - 32, "Relu": 255, None: 127}[activation]
    step = np.maximum(np.abs(want).max(axis=-1, keepdims=True) / steps, smallest_step)
    assert (np.abs(got - want) <= 0.501 * step + 1e-6).all()
    assert np.abs(got - want).max() > 0


def test_int8_gives_a_row_the_same_answer_in_any_company(int8):
    texts = ids(8, 24)
    mask = np.ones_like(texts)
    mask[0, 3:] = 0
    alone = answers(int8, texts[:1, :3])
    np.testing.assert_allclose(answers(int8, texts, mask)[:1], alone, atol=1e-5 * np.abs(alone).max())


def test_int8_refuses_a_graph_with_too_few_products(graph, tmp_path):
    with pytest.raises(EngineFailed, match="found 8; wanted 12 or more"):
        quantise(graph.fused, tmp_path / "model.onnx", layers=3, **INT8)


@pytest.mark.parametrize("inner", [40, 41])
@pytest.mark.parametrize("narrow_sums", [False, True])
def test_quantised_channels_are_off_by_half_a_step_at_most(narrow_sums, inner):
    matrix = np.random.default_rng(0).normal(size=(inner, 7)).astype(np.float32) * np.arange(7, dtype=np.float32)
    whole, scales = quantise_channels(matrix, narrow_sums=narrow_sums)
    assert whole.dtype == np.int8
    assert 63 < np.abs(whole).max() <= 127
    assert not whole[:, 0].any()  # a channel of zeros stays zero
    assert (np.abs(whole * scales - matrix) <= scales * 0.501).all()


def test_two_neighbours_never_overflow_16_bits_and_their_products_are_exact(tmp_path):
    """The worst that states can be is 255 at every weight of one sign; ONNX Runtime's own kernel is asked."""
    random = np.random.default_rng(0)
    matrix = random.normal(size=(385, 48)).astype(np.float32)
    matrix[random.integers(0, 385, 20), random.integers(0, 48, 20)] = 9.0  # outliers
    matrix[:, 0] = 1.0  # every weight as large as the largest
    whole, _ = quantise_channels(matrix, narrow_sums=True)
    plain, _ = quantise_channels(matrix, narrow_sums=False)
    sums = [np.add.reduceat(np.clip(sign * whole.astype(int), 0, None), range(0, 385, 2)) for sign in (1, -1)]
    assert max(side.max() for side in sums) <= 128
    assert np.abs(plain[:, 0]).max() == 127
    values = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, [None, 385])]
    values.append(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT32, [None, 48]))
    node = onnx.helper.make_node("MatMulInteger", ["x", "weights"], ["y"])
    weights = onnx.numpy_helper.from_array(whole, "weights")
    graph = onnx.helper.make_graph([node], "sums", values[:1], values[1:], [weights])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10),
        str(tmp_path / "sums.onnx"),
    )
    session = ort.InferenceSession(str(tmp_path / "sums.onnx"), providers=["CPUExecutionProvider"])
    ends = [255 * (whole.T > 0), 255 * (whole.T < 0), np.full((48, 385), 255)]
    states = np.concatenate([*ends, random.integers(0, 256, (48, 385))]).astype(np.uint8)
    for rows in (states, states[:3], states[:1]):
        np.testing.assert_array_equal(session.run(None, {"x": rows})[0], rows.astype(int) @ whole.astype(int))


def test_weights_over_the_limit_lie_beside_the_graph_and_load_from_any_folder(graph, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SINGLE_FILE_LIMIT", 10_000)
    written = tmp_path / "first"
    written.mkdir()
    files.save_model(onnx.load(str(graph.file)), written / "model.onnx")
    assert sorted(path.name for path in written.iterdir()) == ["model.onnx", "model.onnx.data"]
    moved = written.rename(tmp_path / "moved")
    fusion = fuse(moved / "model.onnx", moved / "fused.onnx", **SIZES)
    assert fusion.whole
    assert (moved / "fused.onnx.data").is_file()
    want = answers(graph.file, ids(2, 6))
    np.testing.assert_array_equal(answers(moved / "model.onnx", ids(2, 6)), want)
    quantise(moved / "fused.onnx", moved / "int8.onnx", layers=2, **INT8)
    assert (moved / "int8.onnx.data").is_file()
    np.testing.assert_allclose(answers(moved / "int8.onnx", ids(2, 6)), want, atol=0.15 * np.abs(want).max())
