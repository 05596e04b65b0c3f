"""Names engines and runtimes without importing them; imports one when it is loaded."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..bundle.errors import EngineUnavailable
from ..bundle.manifest import EngineEntry
from .engine import Engine, EngineOptions


class Loader(Protocol):
    """What a runtime's module offers as ``load_engine``."""

    def __call__(self, entry: EngineEntry, model_file: Path, options: EngineOptions) -> Engine:
        """Load the engine that ``entry`` describes from ``model_file``."""
        ...


@dataclass(frozen=True)
class Runtime:
    """An engine runtime.

    Attributes:
        name: as in an engine's entry.
        package: import name whose presence decides whether it is installed.
        module: module of this package with ``load_engine``.
        extra: extra that installs it.
        compiles_shapes: whether it makes kernels for each shape that it meets for the first time.
    """

    name: str
    package: str
    module: str
    extra: str
    compiles_shapes: bool = False

    def installed(self) -> bool:
        """Whether its package can be found; nothing is imported."""
        return importlib.util.find_spec(self.package) is not None

    def install_line(self) -> str:
        """The command that installs it."""
        return f"pip install 'nlpdeploy[{self.extra}]'"


RUNTIMES = {
    runtime.name: runtime
    for runtime in (
        Runtime("onnxruntime", "onnxruntime", ".onnxruntime", "cpu"),
        Runtime("openvino", "openvino", ".openvino", "cpu", compiles_shapes=True),
        Runtime("tensorrt", "tensorrt", ".tensorrt", "gpu"),
        Runtime("tensorrt_rtx", "tensorrt_rtx", ".tensorrt", "rtx"),
        Runtime("onnxruntime-cuda", "onnxruntime", ".onnxruntime_gpu", "gpu"),
        Runtime("onnxruntime-tensorrt", "onnxruntime", ".onnxruntime_gpu", "gpu"),
    )
}

TENSORRT_PLUG_IN = "onnxruntime_ep_nv_tensorrt_rtx"
"""Import name of the package that brings TensorRT for RTX to the plain ONNX Runtime; it needs no onnxruntime-gpu."""


def plug_in_installed() -> bool:
    """Whether that package can be found; nothing is imported."""
    return importlib.util.find_spec(TENSORRT_PLUG_IN) is not None


def load_engine(entry: EngineEntry, folder: Path, options: EngineOptions) -> Engine:
    """Load an engine of a bundle, whose files the caller has verified.

    Args:
        entry: the engine's entry in the manifest.
        folder: the bundle's folder.
        options: threads.

    Raises:
        EngineUnavailable: the runtime is unknown here or its package is missing, with the line that installs it.
        EngineFailed: the runtime can't load the file.
    """
    runtime = RUNTIMES.get(entry.runtime)
    if runtime is None:
        raise EngineUnavailable(
            f"engine {entry.id}: runtime", found=entry.runtime, wanted=f"one of {', '.join(RUNTIMES)}"
        )
    if not runtime.installed():
        raise EngineUnavailable(f"engine {entry.id} needs {runtime.package}", mend=runtime.install_line())
    if entry.file is None:
        raise EngineUnavailable(f"engine {entry.id} was not built", found=f"{entry.state}: {entry.reason}")
    load: Loader = importlib.import_module(runtime.module, __package__).load_engine
    return load(entry, folder / entry.file, options)
