"""Runs an OpenVINO engine on mixed shapes in a process of its own: ``python -m support.shapes FILE CALLS LOOK …``."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from nlpdeploy.bundle.manifest import EngineEntry
from nlpdeploy.bundle.specs import EngineState, Layout, TensorSpec

TESTS = Path(__file__).resolve().parents[1]
WIDTH, WORDS, LABELS = 64, 100, 4
INPUTS = tuple(TensorSpec(name, "INT64", (-1, -1)) for name in ("input_ids", "attention_mask"))
OUTPUTS = (TensorSpec("logits", "FP32", (-1, LABELS)),)


def write_small_transformer(path: Path) -> Path:
    """ONNX: one layer with attention and a feed-forward part, a masked mean, a head; random weights."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    chance = np.random.default_rng(0)

    def drawn(*shape: int) -> Any:
        return chance.normal(size=shape, scale=0.1).astype(np.float32)

    constants = {
        "embedding": drawn(WORDS, WIDTH), "q": drawn(WIDTH, WIDTH), "k": drawn(WIDTH, WIDTH), "v": drawn(WIDTH, WIDTH),
        "up": drawn(WIDTH, 4 * WIDTH), "down": drawn(4 * WIDTH, WIDTH), "head": drawn(WIDTH, LABELS),
        "axis1": np.array([1]), "axis2": np.array([2]),
    }  # fmt: skip
    steps = [
        ("Gather", "embedding input_ids", "x"), ("MatMul", "x q", "qs"), ("MatMul", "x k", "ks"),
        ("MatMul", "x v", "vs"), ("Transpose", "ks", "kt"), ("MatMul", "qs kt", "raw"), ("Softmax", "raw", "share"),
        ("MatMul", "share vs", "mixed"), ("Add", "x mixed", "y"), ("MatMul", "y up", "wide"), ("Erf", "wide", "bent"),
        ("MatMul", "bent down", "z"), ("Cast", "attention_mask", "mask"), ("Unsqueeze", "mask axis2", "mask3"),
        ("Mul", "z mask3", "kept"), ("ReduceSum", "kept axis1", "pooled"), ("MatMul", "pooled head", "logits"),
    ]  # fmt: skip
    extra = {"Transpose": {"perm": [0, 2, 1]}, "Cast": {"to": TensorProto.FLOAT}, "ReduceSum": {"keepdims": 0}}
    graph = helper.make_graph(
        [helper.make_node(kind, into.split(), [out], **extra.get(kind, {})) for kind, into, out in steps],
        "small",
        [helper.make_tensor_value_info(spec.name, TensorProto.INT64, ["rows", "length"]) for spec in INPUTS],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", LABELS])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


def memory_on_mixed_shapes(model_file: Path, calls: int, looks: tuple[int, ...]) -> list[int]:
    """KiB of a process of its own, pages of files left out, after so many calls of ever other shapes."""
    arguments = [sys.executable, "-m", "support.shapes", str(model_file), str(calls), *map(str, looks)]
    ended = subprocess.run(arguments, cwd=TESTS, capture_output=True, text=True, timeout=250)
    assert ended.returncode == 0, ended.stderr
    found: list[int] = json.loads(ended.stdout)
    return found


def main(path: str, calls: str, *looks: str) -> None:
    """Run 1 to 16 rows of 1 to 128 tokens, each pair of numbers but rarely twice, in a fixed order."""
    from nlpdeploy.runtime import openvino
    from nlpdeploy.runtime.engine import EngineOptions

    file = Path(path)
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    entry = EngineEntry(
        "small", "", "fp32", Layout.PADDED, EngineState.READY, None, file.name, INPUTS, OUTPUTS, options
    )
    engine = openvino.load_engine(entry, file, EngineOptions(threads=1))
    shapes = [(1 + i % 16, 1 + i * 128 // int(calls)) for i in range(int(calls))]
    random.Random(29).shuffle(shapes)
    found = []
    for number, shape in enumerate(shapes, 1):
        engine.run({spec.name: np.ones(shape, np.int64) for spec in INPUTS})
        if str(number) in looks:
            lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
            found.append(next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
