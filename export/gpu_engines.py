"""Engines for GPUs in an export: which typed graph, which shapes, and how far they are proven here."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from ..bundle.errors import EngineFailed
from ..bundle.manifest import EngineEntry
from ..bundle.specs import EngineState
from .bench import Bench
from .builders.catalogue import TypedBuilder
from .builders.tensorrt_build import WORKSPACE_BYTES
from .builders.tensorrt_profile import profiles_of
from .request import ExportRequest, Progress
from .typed_graphs import TypedGraphs


def build_for_gpu(
    builder: TypedBuilder, graphs: TypedGraphs, folder: Path, bench: Bench, request: ExportRequest, progress: Progress
) -> EngineEntry:
    """Build one engine; where it was built ahead of time it is unproven, with the parity that emulation showed.

    Raises:
        EngineFailed: emulation doesn't pass, the build failed, or what came out isn't of the precision asked for.
        NlpdeployError: see ``TensorRTBuilder.build_typed``.
    """
    typed = graphs.of(builder.precision)
    if not typed.parity.passed:
        raise EngineFailed(f"engine {builder.id}, emulated", found=typed.parity.reason)
    model = bench.checkpoint.model
    profiles = profiles_of([len(row) for row in bench.rows], model.max_length)
    entry = builder.build_typed(
        typed.graph, folder, profiles, model.max_length, rebuild_line(request, builder.id), progress,
        request.gpu_workspace_bytes,
    )  # fmt: skip
    if entry.state is not EngineState.UNPROVEN:
        return entry
    gpu = entry.valid_for["gpu"]
    reason = (
        f"built for {gpu}, which this machine lacks; parity is emulated; "
        f"`nlpdeploy models prove {request.name}` on a machine with {gpu} proves it"
    )
    return replace(entry, reason=reason, parity=typed.parity, options={**entry.options, "parity": typed.limits})


def rebuild_line(request: ExportRequest, engine_id: str) -> str:
    """The command that makes an engine again, beside one that serves on a CPU."""
    words = ["nlpdeploy", "export", str(request.checkpoint), "--name", request.name]
    words += ["--engines", f"onnx-fp32,{engine_id}"]
    given = {
        "--task": request.task, "--activation": request.activation, "--weights": request.weights,
        "--labels": request.labels, "--data": request.data, "--text-column": request.text_column,
        "--label-column": request.label_column, "--pair-column": request.pair_column, "--tolerance": request.tolerance,
    }  # fmt: skip
    for option, value in given.items():
        if value is not None:
            words += [option, str(value)]
    if request.gpu_workspace_bytes != WORKSPACE_BYTES:
        words += ["--gpu-workspace", f"{request.gpu_workspace_bytes / 2**20:g}"]
    return shlex.join([*words, "--pair"] if request.pair else words)
