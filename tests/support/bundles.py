"""Small bundles for tests of the store: real files, no tokenizer, no model."""

from __future__ import annotations

from collections.abc import Mapping

from nlpdeploy.bundle.compare import Deviation
from nlpdeploy.bundle.evidence import Accuracy, Latency, LatencyCurve, ParityCase, ParityResult
from nlpdeploy.bundle.manifest import EngineEntry, GoldenSample, Manifest, Source
from nlpdeploy.bundle.names import Reference
from nlpdeploy.bundle.specs import Activation, EngineState, Layout, ModelSpec, Task, TensorSpec
from nlpdeploy.bundle.store import Store

MODEL_FILE = "engines/onnx-fp32/model.onnx"
FILES: Mapping[str, bytes] = {
    "config.json": b'{"model_type": "bert"}\n',
    MODEL_FILE: bytes(range(256)) * 8,
    "evidence/parity.json": b"[0.1, 0.2]",
    "tokenizer/tokenizer.json": "the 人 的".encode(),
}


def example_manifest(name: str = "intent") -> Manifest:
    """A manifest with every kind of field filled: nested values, an infinite error, text beyond ASCII."""
    broken = Deviation(4, float("inf"), float("inf"), -1.0, 3, 0, 0)
    parity = ParityResult(
        passed=False, reason="NaN or infinity in 3 of 4 rows", tolerance=1e-4, tolerance_source="fp32",
        flip_margin=2e-4, noise_floor=3.1e-7, rows=4, flips=3, flips_outside_margin=3, flip_bound=0.99,
        agreement=0.25, company=0.0, max_abs_error=float("inf"), mean_abs_error=float("nan"), cosine=float("-inf"),
        cases=(ParityCase("batch 4, length 8", "logits", broken, 3, 3, False),),
    )  # fmt: skip
    engines = (
        EngineEntry(
            "onnx-fp32", "onnxruntime", "fp32", Layout.PADDED, EngineState.READY, None, MODEL_FILE,
            (TensorSpec("input_ids", "INT64", (-1, -1)),), (TensorSpec("logits", "FP32", (-1, 2)),),
            {"fused": 6, "ratio": 0.5, "packed": False, "hint": None}, {"isa": "avx2"}, 2048, None,
            Accuracy(100, 0.91, 0.9, 0.0, 0.01), Latency(1.5, 2.5, 3.25, 410.0, 200),
            LatencyCurve(1e-4, 2e-6, 1e-5, 0.0, ((1, 16, 0.001), (8, 16, 0.004))),
        ),
        EngineEntry("onnx-int8", "onnxruntime", "int8", Layout.PADDED, EngineState.FAILED, "too far", parity=parity),
    )  # fmt: skip
    return Manifest(
        name=name,
        model=ModelSpec(
            Task.CLASSIFICATION,
            Activation.SOFTMAX,
            "problem_type",
            ("正面", "负面"),
            pair=False,
            max_length=512,
            pad_id=0,
        ),
        source=Source("ckpt", {"model.safetensors": "ab" * 32}, "cd" * 32, "BertForX", "bert", 10, {"torch": "2.13"}),
        engines=engines,
        default_engine="onnx-fp32",
        golden=(GoldenSample("I said “no”\n\tOK", None, (2, 7, 3), (0, 0, 0), (0.5, -1.25)),),
        created="2025-01-31T12:00:00+00:00",
    )


def publish(
    store: Store, name: str = "intent", *, files: Mapping[str, bytes] = FILES, promote: bool = True
) -> Reference:
    """Publish the files, and the model file that the manifest names, as the next version of a name."""
    with store.staging(name) as staging:
        for path, data in {MODEL_FILE: FILES[MODEL_FILE], **files}.items():
            target = staging.path / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        return store.publish(staging, example_manifest(name), promote=promote)
