"""The table of a bundle's engines, and the same numbers as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..bundle.manifest import EngineEntry, Manifest
from . import console

HEADINGS = "engine,precision,size,max err,agree,accuracy,p50 ms,p95 ms,speed-up,state".split(",")
REFERENCE = "torch-fp32"


def engine_json(entry: EngineEntry) -> dict[str, Any]:
    """One engine's numbers; what was not measured, or is not finite, is null."""
    parity, latency = entry.parity, entry.latency
    return {
        "id": entry.id,
        "runtime": entry.runtime,
        "precision": entry.precision,
        "state": str(entry.state),
        "reason": entry.reason,
        "size_bytes": entry.size_bytes,
        "fused": entry.options.get("fused"),
        "max_abs_error": _finite(parity.max_abs_error) if parity else None,
        "tolerance": parity.tolerance if parity else None,
        "agreement": parity.agreement if parity else None,
        "flips": parity.flips if parity else None,
        "flip_bound": parity.flip_bound if parity else None,
        "accuracy": entry.accuracy.accuracy if entry.accuracy else None,
        "p50_ms": latency.p50_ms if latency else None,
        "p95_ms": latency.p95_ms if latency else None,
        "speedup": latency.speedup if latency else None,
        "texts_per_second": latency.texts_per_second if latency else None,
    }


def reference_json(manifest: Manifest) -> dict[str, Any]:
    """The checkpoint's own numbers in eager PyTorch."""
    accuracy, latency = manifest.reference_accuracy, manifest.reference_latency
    return {
        "id": REFERENCE,
        "accuracy": accuracy.accuracy if accuracy else None,
        "p50_ms": latency.p50_ms if latency else None,
        "p95_ms": latency.p95_ms if latency else None,
        "texts_per_second": latency.texts_per_second if latency else None,
    }


def print_engines(manifest: Manifest) -> None:
    """The table, the reference first, the default engine marked; below it what is fused, and reasons."""
    reference = reference_json(manifest)
    p50, p95 = _number(reference["p50_ms"], 2), _number(reference["p95_ms"], 2)
    accuracy, speedup = _number(reference["accuracy"], 4), "1.0 x" if p50 else ""
    rows = [[REFERENCE, "fp32", "", "", "", accuracy, p50, p95, speedup, "reference"]]
    rows += [_row(engine_json(entry), entry.id == manifest.default_engine) for entry in manifest.engines]
    console.print_table(HEADINGS, rows, left=(0, 1, 9))
    for text in fused_notes(manifest.engines):
        console.note(text)
    for entry in manifest.engines:
        if entry.reason:
            console.note(f"{entry.id} {entry.state}: {entry.reason}")


def fused_notes(engines: Sequence[EngineEntry]) -> list[str]:
    """How much of the graph is in fused operators, e.g. ``fused in onnx-fp32: attention 6 of 6, …``; a line a count."""
    by_count: dict[str, list[str]] = {}
    for entry in engines:
        if "fused" in entry.options:
            by_count.setdefault(str(entry.options["fused"]), []).append(entry.id)
    return [f"fused in {', '.join(ids)}: {count}" for count, ids in by_count.items()]


def _row(engine: dict[str, Any], default: bool) -> list[str]:
    speedup = engine["speedup"]
    return [
        engine["id"] + (" *" if default else ""),
        engine["precision"],
        _size(engine["size_bytes"]),
        "" if engine["max_abs_error"] is None else f"{engine['max_abs_error']:.1e}",
        "" if engine["agreement"] is None else f"{engine['agreement']:.2%}",
        _number(engine["accuracy"], 4),
        _number(engine["p50_ms"], 2),
        _number(engine["p95_ms"], 2),
        "" if speedup is None else f"{speedup:.1f} x",
        engine["state"],
    ]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _size(size: int) -> str:
    if size >= 1e9:
        return f"{size / 1e9:.2f} GB"
    return f"{size / 1e6:.1f} MB" if size else ""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
