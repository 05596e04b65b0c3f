"""Ranges of fp32 tensors: right, whatever the slices, and within bounded memory."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nlpdeploy.bundle.specs import TensorSpec
from nlpdeploy.export import ranges
from nlpdeploy.export.precision_suspects import headroom
from nlpdeploy.export.ranges import trace_feeds, trace_ranges
from nlpdeploy.runtime.text import Row
from support.onnx_text import standard_graph

GRAPH = """g (float[n, 3] x, bool c) => (float[n, 3] y) {
    [square] a = Mul(x, x)
    [tiny] b = Mul(a, small)
    [if] d = If (c) <
        then_branch = then () => (float[n, 3] t) { [inner] t = Add(a, b) },
        else_branch = other () => (float[n, 3] e) { [outer] e = Sub(a, x) }
    >
    [shape] s = Shape(x)
    [flat] f = Reshape(d, s)
    [out] y = Add(f, b)
}"""


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_every_tensor_is_counted_over_all_rows_whatever_the_slices(size, monkeypatch):
    monkeypatch.setattr(ranges, "SLICE_NODES", size)
    model = standard_graph(GRAPH, small=np.float32(1e-9))
    feeds = [
        {"x": np.array([[1, -300, 2], [0, 0, 0.5]], np.float32), "c": np.array(True)},
        {"x": np.array([[-4, 5, 6]], np.float32), "c": np.array(False)},
    ]
    trace = trace_ranges(model, feeds)
    assert list(trace) == ["a", "b", "d", "f", "y"]
    a, b = trace["a"], trace["b"]
    assert (a.node, a.minimum, a.maximum, a.elements, a.overflows, a.underflows) == ("square", 0, 90_000, 9, 1, 0)
    assert b.overflows == 0
    assert b.underflows == 5  # not the zeros, 300's 9e-5 and 6's 3.6e-8
    assert trace["d"].minimum == 0
    assert trace["d"].maximum == pytest.approx(90_000)
    assert trace["f"].absmax == trace["d"].absmax


def test_values_that_are_no_numbers_count_as_overflows():
    model = standard_graph("g (float[n] x) => (float[n] y) { [log] y = Log(x) }")
    trace = trace_ranges(model, [{"x": np.array([-1, 0, 1], np.float32)}])
    assert trace["y"].overflows == 2
    assert trace["y"].absmax == np.inf


def test_what_descends_from_a_clamped_mask_alone_is_marked_and_scores_beside_it_are_not():
    model = standard_graph(
        """g (float[n, k] scores, int64[n, k] mask) => (float[n, k] y) {
            [cast] m = Cast<to = 1>(mask) [sub] i = Sub(one, m) [mul] bias = Mul(i, lowest)
            [add] s = Add(scores, bias) [softmax] y = Softmax<axis = -1>(s)
        }""",
        one=np.float32(1),
        lowest=np.finfo(np.float32).min,
    )
    feed = {"scores": np.full((1, 2), 7, np.float32), "mask": np.array([[1, 0]])}
    trace = trace_ranges(model, [feed])
    assert [name for name, item in trace.items() if item.from_mask] == ["bias"]
    assert not any(item.overflows for item in trace.values())  # as the half graph has it
    feed["scores"] = np.full((1, 2), 7e4, np.float32)
    assert trace_ranges(model, [feed])["s"].overflows == 1  # scores that overflow by themselves show


def test_what_comes_near_the_end_of_the_range_is_warned_of_but_neither_masks_nor_what_stays_fp32():
    model = standard_graph(
        """g (float[n, m] x, int64[n, m] mask) => (float[n, m] y) {
            [cast] f = Cast<to = 1>(mask) [bias] m2 = Mul(f, lowest) [masked] s = Add(x, m2)
            [softmax] p = Softmax<axis = -1>(s) [grow] a = Mul(x, big) [wide] b = Mul(x, wider)
            [sum] c = Add(a, b) [small] d = Mul(c, tiny) [join] y = Add(d, p)
        }""",
        big=np.float32(20000), wider=np.float32(15000), tiny=np.float32(1e-4), lowest=np.finfo(np.float32).min,
    )  # fmt: skip
    feed = {"x": np.array([[1, -2]], np.float32), "mask": np.array([[0, 1]])}
    trace = trace_ranges(model, [feed])
    near = headroom(model, trace, "fp16")
    assert [(item.node, item.absmax) for item in near] == [("sum", 70000.0), ("grow", 40000.0), ("wide", 30000.0)]
    assert near[1].times == pytest.approx(65504 / 40000)
    assert str(near[1]).startswith("grow makes values up to 4e+04 on these texts, 1.6 x below the end of the range")
    assert [item.node for item in headroom(model, trace, "fp16", but=("sum", "grow"))] == ["wide"]
    assert headroom(model, trace, "bf16") == ()


def test_batches_hold_few_tokens_and_every_row_once():
    rows = [Row(np.full(length, length), np.zeros(length, np.int64)) for length in (3, 400, 7, 90, 5, 600)]
    feeds = trace_feeds(rows, [TensorSpec("input_ids", "INT64", (-1, -1))], pad_id=0)
    assert all(feed["input_ids"].size <= ranges.BATCH_TOKENS or len(feed["input_ids"]) == 1 for feed in feeds)
    assert sorted(int(row.max()) for feed in feeds for row in feed["input_ids"]) == [3, 5, 7, 90, 400, 600]


def base_sized(file, layers=12, width=768, heads=12, inner=3072, vocabulary=30522):
    """A BERT-base in sizes: attention and feed-forward of so many layers, random weights."""
    random = np.random.default_rng(0)
    nodes, weights = [], {}

    def weight(name, *shape):
        weights[name] = random.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        return name

    def node(op, inputs, output, **attributes):
        nodes.append(helper.make_node(op, inputs, [output], f"{op}_{output}", **attributes))
        return output

    weights["split"] = np.array([0, 0, heads, width // heads])
    weights["join"] = np.array([0, 0, width])
    weights["norm"] = np.ones(width, np.float32)
    states = node("Gather", [weight("words", vocabulary, width), "input_ids"], "embedded")
    for i in range(layers):
        parts = []
        for part, axes in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            linear = node("MatMul", [states, weight(f"w{part}{i}", width, width)], f"{part}{i}")
            parts.append(
                node("Transpose", [node("Reshape", [linear, "split"], f"{part}s{i}")], f"{part}t{i}", perm=axes)
            )
        scores = node("Softmax", [node("MatMul", parts[:2], f"scores{i}")], f"weights{i}", axis=-1)
        mixed = node("Transpose", [node("MatMul", [scores, parts[2]], f"mixed{i}")], f"back{i}", perm=[0, 2, 1, 3])
        joined = node("Reshape", [mixed, "join"], f"joined{i}")
        out = node("MatMul", [joined, weight(f"wo{i}", width, width)], f"out{i}")
        states = node("LayerNormalization", [node("Add", [states, out], f"sum{i}"), "norm"], f"mid{i}")
        wide = node("Gelu", [node("MatMul", [states, weight(f"w1{i}", width, inner)], f"wide{i}")], f"gelu{i}")
        narrow = node("MatMul", [wide, weight(f"w2{i}", inner, width)], f"narrow{i}")
        states = node("LayerNormalization", [node("Add", [states, narrow], f"sum2{i}"), "norm"], f"end{i}")
    graph = helper.make_graph(
        nodes,
        "base",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", "k"])],
        [helper.make_tensor_value_info(states, TensorProto.FLOAT, ["n", "k", width])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), str(file))


CHILD = """
import json, sys
from pathlib import Path
import numpy as np
from nlpdeploy.export.passes.standard import load_standard
from nlpdeploy.export.ranges import trace_ranges
ids = np.random.default_rng(0).integers(0, 30000, (4, 128))
feeds = [{"input_ids": ids} for _ in range(3)] + [{"input_ids": np.resize(ids, (1, 512))}]
trace = trace_ranges(load_standard(Path(sys.argv[1])), feeds)
# Not getrusage: what it tells of a child starts at its parent's peak.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
print(json.dumps({"peak": peak, "tensors": len(trace), "elements": trace["gelu11"].elements}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_a_base_sized_model_is_traced_within_twice_its_size_and_a_gigabyte(tmp_path):
    file = tmp_path / "base.onnx"
    base_sized(file)
    size = file.stat().st_size
    assert size > 400e6
    child = subprocess.run([sys.executable, "-c", CHILD, str(file)], capture_output=True, text=True, timeout=280)
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout)
    assert found["tensors"] > 200
    assert found["elements"] == (3 * 4 * 128 + 512) * 3072
    assert size < found["peak"] <= 2 * size + 1e9
