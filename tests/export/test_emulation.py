"""Emulated half precision shows what ONNX Runtime's own run of the half graph hides."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from nlpdeploy.bundle.errors import EngineFailed
from nlpdeploy.export.emulate import EmulatedEngine, Emulator
from nlpdeploy.export.passes.half import to_half
from support.onnx_text import standard_graph

LARGE = """large (float[n] x) => (float[n] y) {
    [grow] a = Mul(x, big)
    [shrink] y = Mul(a, small)
}"""
BIG = {"big": np.float32(3e4), "small": np.float32(2**-12)}


def emulated(model, precision="fp16", keep=()):
    half, _ = to_half(model, precision=precision, keep_fp32=keep)
    return EmulatedEngine(half, precision, engine_id="tensorrt-fp16")


def half_run(model):
    """ONNX Runtime's own run of the half graph, with nothing optimised."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    half, _ = to_half(model)
    content = ir.serde.serialize_model(half).SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def test_what_overflows_between_two_nodes_is_infinite_here_and_hidden_in_a_run_of_the_half_graph():
    model = standard_graph(LARGE, **BIG)
    x = np.array([1, 2, 3], np.float32)
    assert np.isfinite(half_run(model).run(None, {"x": x})[0]).all()
    answer = emulated(model).run({"x": x})["y"]
    assert np.isfinite(answer).tolist() == [True, True, False]


def test_an_island_in_fp32_carries_what_half_can_not():
    model = standard_graph(LARGE, **BIG)
    answer = emulated(model, keep=["grow", "shrink"]).run({"x": np.array([3], np.float32)})["y"]
    np.testing.assert_allclose(answer, 3 * 3e4 / 4096, rtol=1e-6)
    assert not np.isfinite(emulated(model, keep=["grow"]).run({"x": np.array([3], np.float32)})["y"]).any()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_each_result_is_rounded_as_the_type_rounds(precision):
    model = standard_graph("g (float[n] x, float[n] z) => (float[n] y) { [add] y = Add(x, z) }")
    x, z = (np.random.default_rng(seed).normal(size=200).astype(np.float32) for seed in (0, 1))
    kind = ir.DataType.FLOAT16.numpy() if precision == "fp16" else ir.DataType.BFLOAT16.numpy()

    def rounded(values):
        return values.astype(kind).astype(np.float32)

    answer = emulated(model, precision).run({"x": x, "z": z})["y"]
    assert np.array_equal(answer, rounded(rounded(x) + rounded(z)))


def test_what_vanishes_is_zero():
    model = standard_graph(
        "g (float[n] x) => (float[n] y) { [down] a = Mul(x, s) [down2] b = Mul(a, s) [up] y = Mul(b, t) }",
        s=np.float32(2**-13),
        t=np.float32(2**15),
    )
    x = np.array([1.0, 0.5], np.float32)
    assert half_run(model).run(None, {"x": x})[0].all()
    assert not emulated(model).run({"x": x})["y"].any()


def test_branches_and_loops_round_inside():
    model = standard_graph(
        """g (int64 trips, bool c, float[4] x) => (float[4] y, float[4] z) {
            [if] y = If (c) <
                then_branch = then () => (float[4] t) { [inner] t = Mul(x, big) },
                else_branch = other () => (float[4] e) { [other] e = Neg(x) }
            >
            [loop] z = Loop (trips, , x) <
                body = body (int64 i, bool on, float[4] s) => (bool go, float[4] next) {
                    [go] go = Identity(on) [grow] next = Mul(s, big)
                }
            >
        }""",
        big=np.full(4, 256, np.float32),
    )
    x = np.array([1, 2, 3, 1 / 3], np.float32)
    answer = emulated(model).run({"trips": np.array(2), "c": np.array(True), "x": x})
    np.testing.assert_array_equal(answer["y"], np.float32(np.float16(256 * np.float32(np.float16(x)))))
    assert np.isfinite(answer["z"]).tolist() == [False, False, False, True]
    answer = emulated(model, keep=["grow", "loop"]).run({"trips": np.array(2), "c": np.array(False), "x": x})
    np.testing.assert_allclose(answer["z"], x * 65536, rtol=1e-6)


def test_an_engine_names_its_inputs_and_refuses_to_run_once_closed():
    engine = emulated(standard_graph(LARGE, **BIG))
    assert [(spec.name, spec.dtype, spec.shape) for spec in (*engine.inputs, *engine.outputs)] == [
        ("x", "FP32", (-1,)),
        ("y", "FP32", (-1,)),
    ]
    engine.close()
    engine.close()
    with pytest.raises(EngineFailed, match="engine tensorrt-fp16 is closed"):
        engine.run({"x": np.ones(1, np.float32)})


def test_engines_of_one_graph_round_its_constants_once_and_differ_by_their_islands():
    emulator = Emulator(standard_graph(LARGE, **BIG), "fp16", engine_id="tensorrt-fp16")
    x = {"x": np.array([3], np.float32)}
    half, whole = (emulator.engine(keep)[0].run(x)["y"] for keep in ((), ("grow", "shrink")))
    assert np.isinf(half).all()
    assert np.isfinite(whole).all()
    assert np.isinf(emulator.engine(())[0].run(x)["y"]).all()
