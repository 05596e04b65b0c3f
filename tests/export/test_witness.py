"""The second witness: when OpenVINO is asked for its own half precision, and what it says."""

import json

import numpy as np
import pytest

from nlpdeploy.bundle.specs import TensorSpec
from nlpdeploy.export import witness
from nlpdeploy.export.answers import ReferenceAnswers
from nlpdeploy.export.grid import Case
from nlpdeploy.export.passes.files import save_ir
from nlpdeploy.export.passes.half import to_half
from nlpdeploy.export.witness import Witness, call_witness, cpu_capabilities, why_silent
from nlpdeploy.runtime.text import Row
from support.engines import tiny_model
from support.onnx_text import standard_graph

GRAPH = """tiny (int64[n, t] input_ids) => (float[n, 4] logits) {
    x = Gather (table, input_ids)
    axis = Constant <value = int64[1] {1}> ()
    m = ReduceMean <keepdims = 0> (x, axis)
    logits = MatMul (m, w)
}"""
SPECS = [TensorSpec("input_ids", "INT64", (-1, -1))], [TensorSpec("logits", "FP32", (-1, 4))]
WITH_HALF = {"FP32", "BF16", "FP16", "INT8"}


@pytest.fixture
def half(tmp_path):
    """A half graph on disk, and the fp32 graph's answers to some rows."""
    draw = np.random.default_rng(0)
    table, w = draw.normal(size=(40, 16)).astype(np.float32), draw.normal(size=(16, 4)).astype(np.float32)
    save_ir(to_half(standard_graph(GRAPH, table=table, w=w))[0], tmp_path / "half.onnx")
    rows = tuple(Row(draw.integers(1, 40, 6), np.zeros(6, np.int64)) for _ in range(12))
    logits = np.stack([table[row.input_ids].mean(0) @ w for row in rows])
    answers = ReferenceAnswers((Case("batch 2", rows[:2]),), (logits[:2],), rows, logits, 1e-6)
    return tmp_path / "half.onnx", answers


def call(half, shift=0.0, **options):
    file, answers = half
    shifted = ReferenceAnswers(
        answers.grid, answers.grid_logits, answers.rows, answers.logits + np.float32(shift), answers.noise_floor
    )
    options = {"kept": (), "hint": "f32", "capabilities": WITH_HALF, **options}
    return call_witness(file, *SPECS, shifted, tiny_model(), **options)


@pytest.mark.parametrize(
    ("capabilities", "kept", "words"),
    [
        (WITH_HALF, (), None),
        ({"FP32", "BF16", "INT8", "BIN"}, (), "OpenVINO computes in BF16, FP32 on this CPU, not in FP16"),
        (WITH_HALF, ("a", "b"), "OpenVINO would make the 2 nodes half that stay fp32"),
        (set(), (), "OpenVINO is not installed (pip install 'nlpdeploy[cpu]')"),
    ],
)
def test_it_is_asked_where_the_cpu_computes_in_half_and_the_whole_graph_is_half(capabilities, kept, words):
    assert why_silent(capabilities, kept) == words


def test_this_cpu_s_capabilities_are_openvino_s_own():
    assert "FP32" in cpu_capabilities()


def test_it_answers_from_the_half_graph_and_is_held_to_half_s_limits(half):
    """In f32, which any CPU has: the same way, file and judge."""
    told = call(half)
    assert told.silent is None
    assert told.parity.passed
    assert 0 < told.parity.max_abs_error < told.parity.tolerance  # the weights are rounded
    assert str(told).startswith(
        "second witness, OpenVINO in f16 on this CPU: agrees; 100.00% of the labels, max error "
    )
    assert json.loads(json.dumps(told.to_plain()))["rows"] == 12


def test_one_that_answers_otherwise_is_heard(half):
    told = call(half, shift=[0.5, 0, 0, 0])
    assert not told.to_plain()["passed"]
    assert "DISAGREES" in str(told)


def test_where_the_cpu_takes_another_precision_it_is_silent_and_says_so(half):
    told = call(half, hint="f16")
    if "FP16" in cpu_capabilities():
        assert told.parity.passed
    else:
        assert told.silent.endswith("wanted f16")
        assert told.to_plain() == {"asked": False, "reason": told.silent}


def test_a_silent_one_is_one_line(half, monkeypatch):
    monkeypatch.setattr(witness, "cpu_capabilities", lambda: frozenset({"FP32"}))
    told = call(half, capabilities=None)
    assert told == Witness("OpenVINO computes in FP32 on this CPU, not in FP16", None)
    assert str(told) == f"no second witness: {told.silent}"
