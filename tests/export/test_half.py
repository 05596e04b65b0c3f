"""The half pass: what becomes half, what may not, where casts stand, what the constants lose."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper

from nlpdeploy.bundle.errors import EngineFailed, InvalidInput, Unsupported
from nlpdeploy.export.architectures import ARCHITECTURES
from nlpdeploy.export.checkpoint import load_torch, read_checkpoint
from nlpdeploy.export.graph import export_standard
from nlpdeploy.export.passes.half import check_half, to_half, write_half
from nlpdeploy.export.passes.standard import load_standard, standardise
from support.checkpoints import random_classifier

HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def graph(text, opset=20, **constants):
    """A model from ONNX's text form, with the constants added as initializers."""
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}]>\n{text}')
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def halved(model, precision="fp16", keep_fp32=()):
    """The half graph, checked and inferred anew, and the report."""
    half, report = to_half(ir.serde.deserialize_model(model), precision=precision, keep_fp32=keep_fp32)
    proto = ir.serde.serialize_model(half)
    onnx.checker.check_model(proto, full_check=True)
    return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True), report


def run(model, **feed):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feed)


def types(model):
    """Element type by tensor name, of the main graph."""
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def named(model, name):
    return next(node for node in model.graph.node if node.name == name)


def casts(model):
    return [node for node in model.graph.node if node.op_type == "Cast"]


CHAIN = """chain (float[n, 4] x) => (float[n, 4] y) {
    [one] a = MatMul(x, w1)
    [two] b = Relu(a)
    [three] c = MatMul(b, w2)
    [four] y = Add(c, w3)
}"""


@pytest.fixture
def chain():
    random = np.random.default_rng(0)
    shapes = {"w1": (4, 4), "w2": (4, 4), "w3": 4}
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return graph(CHAIN, **weights)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_everything_between_inputs_and_outputs_is_half_and_these_keep_names_and_types(chain, precision):
    model, report = halved(chain, precision)
    assert [(value.name, value.type.tensor_type.elem_type) for value in (*model.graph.input, *model.graph.output)] == [
        ("x", TensorProto.FLOAT),
        ("y", TensorProto.FLOAT),
    ]
    found = types(model)
    assert {found[name] for name in ("a", "b", "c", "w1", "w2", "w3")} == {HALF[precision]}
    assert [node.name for node in model.graph.node if node.op_type != "Cast"] == ["one", "two", "three", "four"]
    assert len(casts(model)) == report.casts == 2  # one at each end
    assert (report.nodes, report.half, report.keep_fp32, report.forced_fp32) == (4, 4, (), ())
    assert str(report) == f"4 of 4 nodes in {precision}, 0 of 36 constants clamped, 0 became zero"


def test_the_half_graph_answers_as_the_fp32_graph_does_within_half_precision(chain):
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    (want,) = run(chain, x=x)
    (got,) = run(halved(chain)[0], x=x)
    assert got.dtype == np.float32
    assert 0 < np.abs(got - want).max() < 0.01


def test_an_island_gets_one_cast_at_each_shore_and_its_weights_stay_fp32(chain):
    model, report = halved(chain, keep_fp32=["two", "three"])
    found = types(model)
    assert report.keep_fp32 == ("two", "three")
    assert found["w2"] == TensorProto.FLOAT
    assert found["b"] == TensorProto.FLOAT
    assert found["c"] == TensorProto.FLOAT
    assert found["w1"] == found["w3"] == TensorProto.FLOAT16
    assert len(casts(model)) == 4  # x, into the island, out of it, y
    assert named(model, "three").input[0] == "b"


def test_with_everything_kept_the_graph_is_the_one_it_was(chain):
    model, report = halved(chain, keep_fp32=["one", "two", "three", "four"])
    assert not casts(model)
    assert (report.half, report.casts, report.elements) == (0, 0, 0)
    x = np.ones((2, 4), np.float32)
    assert np.array_equal(run(model, x=x)[0], run(chain, x=x)[0])


def test_the_given_model_is_left_as_it_was(chain):
    model = standardise(ir.serde.deserialize_model(chain))
    before = ir.serde.serialize_model(model).SerializeToString(deterministic=True)
    to_half(model, keep_fp32=["two"])
    assert ir.serde.serialize_model(model).SerializeToString(deterministic=True) == before


def test_one_cast_serves_all_readers_and_a_constant_read_by_both_kinds_stands_in_both_types():
    model = graph(
        """g (float[4] x) => (float[4] y, float[4] z) {
            [half] a = Add(x, w)
            [kept1] y = Mul(a, w)
            [kept2] z = Sub(a, w)
        }""",
        w=np.full(4, 1 / 3, np.float32),
    )
    half, _ = halved(model, keep_fp32=["kept1", "kept2"])
    assert len(casts(half)) == 2  # x into fp16, a out of it
    weights = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert weights == {"w": TensorProto.FLOAT, "w_fp16": TensorProto.FLOAT16}


def test_an_output_that_is_read_inside_too_keeps_its_name():
    model = graph("g (float[4] x) => (float[4] y, float[4] z) { [a] y = Exp(x) [b] z = Neg(y) }")
    half, _ = halved(model)
    x = np.array([0, 1, 2, 3], np.float32)
    np.testing.assert_allclose(run(half, x=x)[1], -np.exp(x), rtol=2e-3)


MASKED = """masked (float[n, k] scores, int64[n, k] mask) => (float[n, k] y) {
    [cast] m = Cast<to = 1>(mask)
    [sub] inverse = Sub(one, m)
    [mul] bias = Mul(inverse, lowest)
    [add] s = Add(scores, bias)
    [softmax] y = Softmax<axis = -1>(s)
}"""


@pytest.mark.parametrize("lowest", [np.finfo(np.float32).min, -1e9])
def test_mask_constants_are_clamped_counted_and_leave_a_row_without_tokens_finite(lowest):
    model = graph(MASKED, one=np.float32(1), lowest=np.float32(lowest))
    half, report = halved(model)
    assert report.clamped == 1
    (lossy,) = report.initializers
    assert (lossy.name, lossy.clamped, lossy.largest) == ("lowest", 1, pytest.approx(abs(lowest)))
    scores = np.array([[30, -30, -40], [-100, -200, -150]], np.float32)
    mask = np.array([[1, 1, 0], [0, 0, 0]])
    (got,) = run(half, scores=scores, mask=mask)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got[0], [1, 0, 0], atol=1e-3)


def test_infinite_masks_are_clamped_and_bounds_go_to_the_end_of_the_range():
    text = """g (bool[4] c, float[4] x) => (float[4] y, float[4] z) {
        [where] y = Where(c, x, masked)
        [clip] z = Clip(x, low, high)
    }"""
    bounds = {"masked": np.float32(-np.inf), "low": np.float32(-1e30), "high": np.float32(1e30)}
    half, report = halved(graph(text, **bounds))
    weights = {tensor.name: float(numpy_helper.to_array(tensor)) for tensor in half.graph.initializer}
    assert weights == {"masked": -32752.0, "low": -65504.0, "high": 65504.0}
    assert report.clamped == 3


def test_constants_that_vanish_are_counted_by_name():
    tiny = np.array([1e-9, 0, 1e-3, 2.0], np.float32)
    _, report = halved(graph("g (float[4] x) => (float[4] y) { [add] y = Add(x, w) }", w=tiny))
    assert (report.underflowed, report.elements) == (1, 4)
    assert [(item.name, item.underflowed) for item in report.initializers] == [("w", 1)]


def test_weights_far_below_the_normal_range_are_reported_with_the_share_they_lose():
    small = np.full((8, 8), 1e-6, np.float32) * np.linspace(0.9, 1.1, 64, dtype=np.float32).reshape(8, 8)
    _, report = halved(graph("g (float[1, 8] x) => (float[1, 8] y) { [mm] y = MatMul(x, w) }", w=small))
    (lossy,) = report.initializers
    assert lossy.underflowed == 0
    assert 0.01 < lossy.error < 0.05


def test_bf16_keeps_the_range_and_still_clamps_what_would_round_to_infinity():
    half, report = halved(graph(MASKED, one=np.float32(1), lowest=np.finfo(np.float32).min), "bf16")
    assert report.clamped == 1
    lowest = next(tensor for tensor in half.graph.initializer if tensor.name == "lowest")
    assert np.isfinite(float(numpy_helper.to_array(lowest)))
    assert float(numpy_helper.to_array(lowest)) < -1e38


BUCKETS = """buckets (int64[n] positions) => (int64[n] bucket) {
    [cast] p = Cast<to = 1>(positions)
    [scaled] s = Mul(p, scale)
    [log] l = Log(s)
    [ceil] c = Ceil(l)
    [back] bucket = Cast<to = 7>(c)
}"""


def test_arithmetic_from_integers_to_integers_stays_fp32_and_answers_exactly():
    model = graph(BUCKETS, scale=np.float32(1.7))
    half, report = halved(model)
    assert [name for name, _ in report.forced_fp32] == ["cast", "scaled", "log", "ceil", "back"]
    assert "integers" in report.forced_fp32[0][1]
    positions = np.arange(1, 60_000, 7)
    assert np.array_equal(run(half, positions=positions)[0], run(model, positions=positions)[0])
    assert not set(types(half).values()) & {TensorProto.FLOAT16}


def test_a_comparison_of_ids_stays_fp32():
    model = graph(
        """g (int64[n] ids) => (bool[n] same) { [cast] f = Cast<to = 1>(ids) [equal] same = Equal(f, pad) }""",
        pad=np.float32(2049),
    )
    half, _ = halved(model)
    assert run(half, ids=np.array([2048, 2049, 2050, 250_000]))[0].tolist() == [False, True, False, False]


def test_a_mask_made_from_integers_is_no_index_and_becomes_half():
    _, report = halved(graph(MASKED, one=np.float32(1), lowest=np.float32(-1e4)))
    assert not report.forced_fp32
    assert report.half == 5


def test_operators_and_inputs_that_know_no_half_stay_fp32():
    model = graph(
        """g (float[1, 1, 4, 4] x, float limit) => (float[1, 1, 8, 8] y, float[k] r) {
            [resize] y = Resize<mode = "nearest">(x, , scales)
            [range] r = Range(zero, limit, one)
        }""",
        scales=np.array([1, 1, 2, 2], np.float32),
        zero=np.float32(0),
        one=np.float32(1),
    )
    half, report = halved(model)
    found = types(half)
    assert found["scales"] == TensorProto.FLOAT
    assert report.forced_fp32 == (("range", "Range is not defined for tensor(float16)"),)
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    limit = np.array(5, np.float32)
    for got, want in zip(run(half, x=x, limit=limit), run(model, x=x, limit=limit), strict=True):
        assert np.array_equal(got, want)


IF = """choice (bool c, float[4] x) => (float[4] y) {
    [before] a = Mul(x, w)
    [if] b = If (c) <
        then_branch = then () => (float[4] t) { [inner] t0 = Add(a, w) [end] t = Exp(t0) },
        else_branch = other () => (float[4] e) { [inner] e = Sub(a, x) }
    >
    [after] y = Neg(b)
}"""


@pytest.mark.parametrize("keep", [(), ("if",), ("inner",), ("before", "end"), ("if", "end", "after")])
def test_both_branches_of_an_if_hand_out_one_type(keep):
    model = graph(IF, w=np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    half, _ = halved(model, keep_fp32=keep)
    x = np.array([1, 2, 3, 4], np.float32)
    for c in (True, False):
        got, want = run(half, c=np.array(c), x=x)[0], run(model, c=np.array(c), x=x)[0]
        np.testing.assert_allclose(got, want, rtol=4e-3)


def test_equal_names_in_two_branches_are_told_apart():
    model = load_names(graph(IF, w=np.ones(4, np.float32)))
    assert len(set(model)) == len(model) == 6


def load_names(proto):
    half, _ = to_half(ir.serde.deserialize_model(proto), keep_fp32=[])
    return [node.name for node in half.graph.all_nodes() if node.op_type != "Cast"]


LOOP = """loop (int64 trips, float[4] x) => (float[4] y, float[k, 4] steps) {
    [loop] y, steps = Loop (trips, , x) <
        body = body (int64 i, bool on, float[4] state) => (bool go, float[4] next, float[4] out) {
            [go] go = Identity(on)
            [grow] next = Mul(state, factor)
            [out] out = Add(next, factor)
        }
    >
}"""


@pytest.mark.parametrize("keep", [(), ("loop",), ("grow",), ("loop", "grow")])
def test_what_a_loop_carries_has_one_type_inside_and_outside(keep):
    model = graph(LOOP, factor=np.array([1.5, 0.5, 1, 2], np.float32))
    half, _ = halved(model, keep_fp32=keep)
    feed = {"trips": np.array(5), "x": np.array([1, 2, 3, 4], np.float32)}
    for got, want in zip(run(half, **feed), run(model, **feed), strict=True):
        np.testing.assert_allclose(got, want, rtol=4e-3)


def test_a_name_that_no_node_has_is_refused(chain):
    with pytest.raises(InvalidInput, match="found five; wanted names of nodes"):
        halved(chain, keep_fp32=["one", "five"])


@pytest.mark.parametrize("opset", [12, 23, 99])
def test_opsets_that_builders_would_take_in_silence_are_refused(opset, chain):
    chain.opset_import[0].version = opset
    with pytest.raises(Unsupported, match=rf"opset of the graph; found {opset}; wanted 13 to 22"):
        halved(chain)


def test_operators_of_other_domains_are_refused_by_name(chain):
    chain.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    chain.graph.node[1].CopyFrom(onnx.helper.make_node("FastGelu", ["a"], ["b"], "two", domain="com.microsoft"))
    with pytest.raises(Unsupported, match=r"operator com\.microsoft\.FastGelu of node 'two'"):
        halved(chain)


def test_a_file_that_is_no_graph_is_one_line(tmp_path):
    (tmp_path / "junk.onnx").write_bytes(b"not a graph at all")
    with pytest.raises(EngineFailed, match=r"graph junk\.onnx can't be read"):
        load_standard(tmp_path / "junk.onnx")


def test_a_graph_with_mixed_types_is_refused_before_any_builder_sees_it(tmp_path, chain):
    half, _ = halved(chain)
    half.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.ones((4, 4), np.float32), half.graph.initializer[0].name)
    )
    onnx.save(half, tmp_path / "mixed.onnx")
    with pytest.raises(EngineFailed, match="the fp16 graph is not valid"):
        check_half(tmp_path / "mixed.onnx", "fp16")


@pytest.mark.parametrize(
    "model_type",
    [pytest.param(name, marks=() if name in ("bert", "roberta") else pytest.mark.slow) for name in ARCHITECTURES],
)
def test_every_product_of_a_real_architecture_is_half_and_the_answers_are_near(model_type, tmp_path):
    checkpoint = read_checkpoint(random_classifier(tmp_path / "checkpoint", model_type=model_type))
    export_standard(load_torch(checkpoint), checkpoint, tmp_path / "fp32.onnx")
    report = write_half(tmp_path / "fp32.onnx", tmp_path / "fp16.onnx")
    model = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "fp16.onnx"), check_type=True, strict_mode=True)
    found = types(model)
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    assert len(products) >= 12
    assert {found[node.output[0]] for node in products} == {TensorProto.FLOAT16}
    assert report.half > 0.9 * report.nodes
    ids = np.array([[7, 9, 11, 8, 6], [7, 12, 6, checkpoint.model.pad_id, checkpoint.model.pad_id]])
    whole = {"input_ids": ids, "attention_mask": np.int64(ids != checkpoint.model.pad_id)}
    feed = {name: whole.get(name, np.zeros_like(ids)) for name in checkpoint.inputs}
    (want,) = run(onnx.load(tmp_path / "fp32.onnx"), **feed)
    (got,) = run(model, **feed)
    np.testing.assert_allclose(got, want, atol=0.01 * np.abs(want).max())
