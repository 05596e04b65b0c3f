"""A real published bundle in a moment, without torch: the tiny tokenizer and a graph of four operators."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nlpdeploy.bundle.evidence import LatencyCurve, ParityResult
from nlpdeploy.bundle.manifest import EngineEntry, GoldenSample, Manifest
from nlpdeploy.bundle.names import Reference
from nlpdeploy.bundle.specs import EngineState, Layout, TensorSpec
from nlpdeploy.bundle.store import Store
from nlpdeploy.runtime.text import TextEncoder

from .engines import INPUTS, LABELS, OUTPUTS, tiny_embedding, tiny_logits, tiny_manifest, tiny_model
from .tokenizers import write_tiny_tokenizer

MODEL_FILE = "engines/onnx-fp32/model.onnx"
PACKED_INPUTS = (
    TensorSpec("input_ids", "INT64", (1, -1)),
    TensorSpec("segment_ids", "INT64", (1, -1)),
    TensorSpec("first_tokens", "INT64", (-1,)),
)
GOLDEN_TEXTS = ("hello a notebook", "world", "note 的 book a a a", "人 hello 人")


def publish_tiny_bundle(
    root: Path, name: str = "tiny", change: Callable[[Manifest], Manifest] = lambda manifest: manifest
) -> Reference:
    """Publish the next version of the tiny model in the store at ``root``, its manifest changed.

    With an engine of packed rows in the manifest, as :func:`packed` makes it, its graph is the packed one.
    """
    store = Store(root)
    model = tiny_model()
    parity = ParityResult(
        passed=True, reason=None, tolerance=1e-4, tolerance_source="chosen for the test", flip_margin=0.0,
        noise_floor=0.0, rows=len(GOLDEN_TEXTS), flips=0, flips_outside_margin=0, flip_bound=1.0, agreement=1.0,
        company=0.0, max_abs_error=0.0, mean_abs_error=0.0, cosine=1.0,
    )  # fmt: skip
    entry = EngineEntry(
        id="onnx-fp32", runtime="onnxruntime", precision="fp32", layout=Layout.PADDED, state=EngineState.READY,
        file=MODEL_FILE, inputs=INPUTS, outputs=OUTPUTS, parity=parity,
        curve=LatencyCurve(base=5e-5, per_token=1e-7, per_row=1e-6, per_square=0.0),
    )  # fmt: skip
    with store.staging(name) as staging:
        tokenizer = write_tiny_tokenizer(staging.path / "tokenizer/tokenizer.json")
        golden = _golden(TextEncoder(tokenizer, model.max_length))
        manifest = change(dataclasses.replace(tiny_manifest(model, engines=(entry,), name=name), golden=golden))
        is_packed = manifest.engines[0].layout is Layout.PACKED
        (write_tiny_packed_graph if is_packed else write_tiny_graph)(staging.path / MODEL_FILE)
        return store.publish(staging, manifest)


def packed(manifest: Manifest) -> Manifest:
    """The same model with an engine of packed rows."""
    entry = dataclasses.replace(manifest.engines[0], layout=Layout.PACKED, inputs=PACKED_INPUTS)
    return dataclasses.replace(manifest, engines=(entry,))


def write_tiny_graph(path: Path) -> Path:
    """ONNX: embed, leave padding out, take the mean of the tokens; the same numbers as ``tiny_logits``."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["embedded", "mask3"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask3", "middle"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["logits"]),
    ]
    shapes = {spec.name: ["rows", "length"] for spec in INPUTS}
    return _write(path, nodes, shapes, {"last": np.array([2]), "middle": np.array([1])})


def write_tiny_packed_graph(path: Path) -> Path:
    """ONNX: embed all texts in one row, take the mean of each text's tokens."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["embedded"]),
        helper.make_node("Squeeze", ["embedded", "first"], ["tokens"]),
        helper.make_node("Shape", ["first_tokens"], ["texts"]),
        helper.make_node("Squeeze", ["texts"], ["count"]),
        helper.make_node("Range", ["zero", "count", "one"], ["numbers"]),
        helper.make_node("Unsqueeze", ["numbers", "middle"], ["column"]),
        helper.make_node("Equal", ["column", "segment_ids"], ["own"]),
        helper.make_node("Cast", ["own"], ["share"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["share", "tokens"], ["sum"]),
        helper.make_node("ReduceSum", ["share", "middle"], ["lengths"], keepdims=1),
        helper.make_node("Div", ["sum", "lengths"], ["logits"]),
    ]
    shapes = {"input_ids": [1, "length"], "segment_ids": [1, "length"], "first_tokens": ["rows"]}
    numbers = {"first": np.array([0]), "middle": np.array([1]), "zero": np.array(0), "one": np.array(1)}
    return _write(path, nodes, shapes, numbers)


def _write(path: Path, nodes: list[Any], shapes: dict[str, list[Any]], numbers: dict[str, Any]) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants = [numpy_helper.from_array(value.astype(np.int64), name) for name, value in numbers.items()]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", len(LABELS)])],
        [numpy_helper.from_array(tiny_embedding(), "embedding"), *constants],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


def _golden(encoder: TextEncoder) -> tuple[GoldenSample, ...]:
    samples = []
    for text in GOLDEN_TEXTS:
        (row,) = encoder.encode([text])
        logits = tiny_logits(row.input_ids[None], np.ones((1, len(row)), dtype=np.int64))[0]
        ids, types = tuple(map(int, row.input_ids)), tuple(map(int, row.token_type_ids))
        samples.append(GoldenSample(text, None, ids, types, tuple(map(float, logits))))
    return tuple(samples)
