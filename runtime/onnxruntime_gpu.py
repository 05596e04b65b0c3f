"""ONNX Runtime on an NVIDIA GPU: its CUDA and its TensorRT provider, or its plug-in for TensorRT for RTX.

Imported only when such an engine is loaded. A session that can't have its provider runs on the CPU with a warning, and
one whose provider fails in a call is made anew on the CPU; here both are failures.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from ..bundle.errors import EngineFailed, EngineUnavailable
from ..bundle.manifest import EngineEntry
from ..bundle.specs import Layout, TensorSpec
from .catalogue import TENSORRT_PLUG_IN, plug_in_installed
from .device import chosen_device, out_of_memory
from .engine import EngineOptions, Feed, Outputs
from .onnxruntime import SEVERITY_ERROR, check_names

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
PLUG_IN = "NvTensorRTRTXExecutionProvider"
"""TensorRT for RTX, a library that ONNX Runtime's own package loads; it brings TensorRT with it."""
PROVIDERS = {"onnxruntime-cuda": (CUDA,), "onnxruntime-tensorrt": (TENSORRT, PLUG_IN)}
"""By runtime the providers that an engine may run on, the first that is there."""


class OnnxGpuEngine:
    """A session on a GPU whose inputs and outputs are bound; keeps the contract of ``runtime/engine.py``.

    Raises:
        EngineUnavailable: this ONNX Runtime has no such provider, or there is no GPU.
        EngineFailed: the file can't be loaded, or the session doesn't run on the provider.
    """

    def __init__(self, entry: EngineEntry, model_file: Path, options: EngineOptions) -> None:
        self.id: str = entry.id
        self.layout: Layout = entry.layout
        self.inputs: tuple[TensorSpec, ...] = entry.inputs
        self.outputs: tuple[TensorSpec, ...] = entry.outputs
        self._names = [spec.name for spec in entry.outputs]
        self._provider = choose_provider(entry, ort.get_available_providers(), plug_in=plug_in_installed())
        self._device = chosen_device(entry.id).index
        self._session: Any = self._open(entry, model_file)

    def _open(self, entry: EngineEntry, model_file: Path) -> Any:
        wanted = ort.SessionOptions()
        wanted.log_severity_level = SEVERITY_ERROR
        wanted.intra_op_num_threads = 1
        if self._provider == PLUG_IN:
            device = _plug_in_device(self.id, self._device)
            wanted.add_provider_for_devices(
                [device], {"nv_max_workspace_size": str(entry.options.get("workspace_bytes", 0))}
            )
            providers = None
        else:
            providers = provider_options(entry, self._provider, self._device)
        try:
            session = ort.InferenceSession(str(model_file), wanted, providers=providers, enable_fallback=0)
        except Exception as error:  # noqa: BLE001 - the runtime raises a dozen kinds of its own
            raise _failed(f"engine {self.id} can't be loaded by ONNX Runtime", error) from None
        check_providers(self.id, session.get_providers(), self._provider)
        check_names(self.id, session, self.inputs, self._names)
        return session

    def run(self, feed: Feed) -> Outputs:
        """See ``Engine.run``."""
        if self._session is None:
            raise EngineFailed(f"engine {self.id} is closed")
        try:
            values = self._session.run(self._names, feed) if self._provider == PLUG_IN else self._run_bound(feed)
        except Exception as error:  # noqa: BLE001 - the runtime raises a dozen kinds of its own
            raise _failed(f"engine {self.id}", error) from None
        return {name: np.asarray(value, np.float32) for name, value in zip(self._names, values, strict=True)}

    def _run_bound(self, feed: Feed) -> Any:
        binding = self._session.io_binding()
        for name, value in feed.items():
            tensor = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value), "cuda", self._device)
            binding.bind_ortvalue_input(name, tensor)
        for name in self._names:
            binding.bind_output(name, "cuda", self._device)
        self._session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()

    def close(self) -> None:
        """See ``Engine.close``."""
        self._session = None


def choose_provider(entry: EngineEntry, available: Collection[str], *, plug_in: bool) -> str:
    """The provider that an engine runs on here.

    Args:
        entry: the engine's.
        available: ONNX Runtime's own providers.
        plug_in: whether the plug-in's package is installed.

    Raises:
        EngineUnavailable: none that it may run on is there, with what to install.
    """
    wanted = PROVIDERS[entry.runtime]
    for provider in wanted:
        if provider in available or (provider == PLUG_IN and plug_in):
            return provider
    raise EngineUnavailable(
        f"engine {entry.id}: provider of ONNX Runtime {ort.__version__}",
        found=", ".join(available), wanted=" or ".join(wanted),
        mend="pip uninstall -y onnxruntime && pip install 'nlpdeploy[gpu]'",
    )  # fmt: skip


def _plug_in_device(engine_id: str, index: int) -> Any:
    """The plug-in's device of that number.

    Raises:
        EngineUnavailable: the plug-in can't be loaded, or knows no such device.
    """
    what = f"engine {engine_id}: ONNX Runtime's plug-in for TensorRT for RTX"
    try:
        _load_plug_in()
    except Exception as error:  # noqa: BLE001 - the runtime raises a dozen kinds of its own
        line = (str(error).splitlines() or [""])[0]
        raise EngineUnavailable(f"{what} can't be loaded", found=line) from None
    devices = [device for device in ort.get_ep_devices() if device.ep_name == PLUG_IN]
    if index >= len(devices):
        raise EngineUnavailable(what, found=f"{len(devices)} devices", wanted=f"number {index}")
    return devices[index]


@cache
def _load_plug_in() -> None:
    """Once in a process: a second time is an error."""
    path = importlib.import_module(TENSORRT_PLUG_IN).get_library_path()
    ort.register_execution_provider_library(PLUG_IN, path)


def check_providers(engine_id: str, found: list[str], wanted: str) -> None:
    """See that a session runs on its provider first; what that can't do may fall to the next one.

    Raises:
        EngineFailed: it fell back to another one.
    """
    if not found or found[0] != wanted:
        raise EngineFailed(
            f"engine {engine_id}: ONNX Runtime left its provider", found=", ".join(found) or "none", wanted=wanted,
            mend="`nlpdeploy doctor` says what the GPU's libraries lack",
        )  # fmt: skip


def provider_options(entry: EngineEntry, provider: str, device: int) -> list[tuple[str, dict[str, Any]]]:
    """Providers and their options, best first; for TensorRT the shapes that the engine was made for."""
    cuda = (CUDA, {"device_id": device, "use_tf32": 0})
    if provider == CUDA:
        return [cuda]
    rows, length = entry.options["most_rows"], entry.options["most_length"]
    usual = f"{entry.options['usual_rows']}x{entry.options['usual_length']}"

    def shapes(size: str) -> str:
        return ",".join(f"{spec.name}:{size}" for spec in entry.inputs)

    return [
        (
            TENSORRT,
            {
                "device_id": device,
                "trt_fp16_enable": True,
                "trt_max_workspace_size": entry.options.get("workspace_bytes", 4 << 30),
                "trt_profile_min_shapes": shapes("1x1"),
                "trt_profile_opt_shapes": shapes(usual),
                "trt_profile_max_shapes": shapes(f"{rows}x{length}"),
            },
        ),
        cuda,
    ]


def load_engine(entry: EngineEntry, model_file: Path, options: EngineOptions) -> OnnxGpuEngine:
    """Load an ONNX file on a GPU; see ``catalogue.Loader``."""
    return OnnxGpuEngine(entry, model_file, options)


def _failed(what: str, error: Exception) -> EngineFailed:
    line = (str(error).splitlines() or [""])[0]
    return out_of_memory(what, line) or EngineFailed(what, found=f"{type(error).__name__}: {line}")
