"""Engines for ONNX Runtime's GPU providers: the half graph as it is, for CUDA or for TensorRT inside the provider."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...bundle.manifest import EngineEntry
from ...bundle.specs import EngineState, Layout
from ...runtime.catalogue import plug_in_installed
from ...runtime.gpus import find_gpus
from .files import engine_folder, size_bytes
from .tensorrt import TypedGraph
from .tensorrt_build import WORKSPACE_BYTES
from .tensorrt_library import Progress
from .tensorrt_profile import Profile, check_profiles

CUDA, TENSORRT = "onnxruntime-cuda", "onnxruntime-tensorrt"


@dataclass(frozen=True)
class OnnxGpuBuilder:
    """Writes the half graph for one of ONNX Runtime's GPU providers.

    Attributes:
        id: the engine's id.
        runtime: name in ``runtime/catalogue``, which decides the provider.
    """

    id: str
    runtime: str
    precision: str = "fp16"
    layout: Layout = Layout.PADDED

    def unavailable(self) -> str | None:
        """See ``Builder.unavailable``."""
        plug_in = self.runtime == TENSORRT and plug_in_installed()
        if not plug_in and not _gpu_build_installed():
            return (
                f"engine {self.id} needs onnxruntime-gpu: pip uninstall -y onnxruntime && pip install 'nlpdeploy[gpu]'"
            )
        problem = find_gpus().problem
        return f"engine {self.id} needs an NVIDIA GPU in this machine: {problem}" if problem else None

    def build_typed(
        self,
        graph: TypedGraph,
        bundle: Path,
        profiles: Sequence[Profile],
        usable: int,
        rebuild: str,
        progress: Progress = lambda stage, done, total: None,
        workspace_bytes: int = WORKSPACE_BYTES,
    ) -> EngineEntry:
        """See ``TensorRTBuilder.build_typed``; the provider builds what it needs when it is loaded."""
        check_profiles(profiles, usable)
        folder = engine_folder(bundle, self.id)
        for file in (graph.file, *graph.file.parent.glob(f"{graph.file.name}.*")):
            shutil.copy2(file, folder / file.name)
        return EngineEntry(
            id=self.id,
            runtime=self.runtime,
            precision=self.precision,
            layout=self.layout,
            state=EngineState.READY,
            file=(folder / graph.file.name).relative_to(bundle).as_posix(),
            inputs=graph.inputs,
            outputs=graph.outputs,
            options={
                "graph": graph.note,
                "opset": graph.opset,
                "rebuild": rebuild,
                "most_rows": max(profile.rows[2] for profile in profiles),
                "usual_rows": profiles[-1].rows[1],
                "usual_length": profiles[-1].length[1],
                "most_length": usable,
                "workspace_bytes": workspace_bytes,
            },
            valid_for={"gpu": find_gpus().devices[0].architecture},
            size_bytes=size_bytes(folder),
        )


def _gpu_build_installed() -> bool:
    try:
        importlib.metadata.version("onnxruntime-gpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def onnx_gpu_builders() -> tuple[OnnxGpuBuilder, ...]:
    """Builders for the CUDA and the TensorRT provider."""
    return OnnxGpuBuilder("onnx-fp16-cuda", CUDA), OnnxGpuBuilder("onnx-tensorrt-fp16", TENSORRT)
