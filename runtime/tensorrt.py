"""TensorRT and TensorRT for RTX on an NVIDIA GPU, without torch. Imported only when such an engine is loaded.

One context, one stream and one set of buffers an engine object, so one a worker. Shapes that come again are captured as
CUDA graphs; calls with more rows than the largest profile are run in parts.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.errors import CorruptBundle, EngineFailed, EngineUnavailable
from ..bundle.manifest import EngineEntry
from ..bundle.specs import Layout, TensorSpec
from .catalogue import RUNTIMES
from .device import Buffer, Cuda, chosen_device, out_of_memory
from .engine import EngineOptions, Feed, Outputs

SIDECAR_NAME = "engine.json"
RTX = "tensorrt_rtx"
CAPTURE_AFTER = 3
"""Calls of a shape before it is captured as a graph: capturing costs as much as a few calls."""
MOST_GRAPHS = 64
GRAPHS_VARIABLE = "NLPDEPLOY_CUDA_GRAPHS"
"""Environment variable; ``0`` runs every call without a graph."""
_DTYPES = {"INT64": np.int64, "FP32": np.float32}

Key = tuple[int, int]


class TensorRTEngine:
    """A deserialised plan with a context; keeps the contract of ``runtime/engine.py``.

    Raises:
        EngineUnavailable: no GPU, one of another architecture, or a package is missing.
        CorruptBundle: the plan isn't the one that its sidecar describes.
        EngineFailed: the plan can't be loaded.
    """

    def __init__(self, entry: EngineEntry, model_file: Path, options: EngineOptions) -> None:
        self.id: str = entry.id
        self.layout: Layout = entry.layout
        self.inputs: tuple[TensorSpec, ...] = entry.inputs
        self.outputs: tuple[TensorSpec, ...] = entry.outputs
        plan, self._profiles = read_plan(entry, model_file)
        gpu = chosen_device(entry.id)
        wanted = entry.valid_for.get("gpu")
        if wanted and gpu.architecture != wanted:
            raise EngineUnavailable(
                f"engine {entry.id}: GPU {gpu.index} ({gpu.name})", found=gpu.architecture, wanted=wanted,
                mend=f"export with --gpu {gpu.architecture}",
            )  # fmt: skip
        self._cuda = Cuda(gpu.index)
        self._stream: Any = self._cuda.call("cudaStreamCreate")
        self._buffers = {spec.name: Buffer(self._cuda, _DTYPES[spec.dtype]) for spec in (*self.inputs, *self.outputs)}
        self._graphs: OrderedDict[Key, Any] = OrderedDict()
        self._calls: Counter[Key] = Counter()
        self._profile = -1
        self._engine: Any = None
        self._open(entry, plan, model_file)

    def _open(self, entry: EngineEntry, plan: bytes, model_file: Path) -> None:
        try:
            trt = importlib.import_module(entry.runtime)
        except (ImportError, OSError) as error:
            line = (str(error).splitlines() or [""])[0]
            raise EngineUnavailable(
                f"{entry.runtime} can't be loaded", found=line, mend=RUNTIMES[entry.runtime].install_line()
            ) from None
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            found = f"{entry.runtime} {trt.__version__}, built with {entry.valid_for.get(entry.runtime)}"
            raise EngineFailed(
                f"engine {entry.id} can't be loaded", found=found, wanted="the version and the GPU of the build",
                mend=str(entry.options.get("rebuild") or "export again"),
            )  # fmt: skip
        self._cache_file = runtime_cache_file(entry, plan)
        self._cache: Any = None
        self._context: Any = self._make_context(entry)
        if self._context is None:
            raise out_of_memory(f"engine {entry.id}", "failed to allocate a context") or EngineFailed(self.id)

    def _make_context(self, entry: EngineEntry) -> Any:
        if entry.runtime != RTX:
            return self._engine.create_execution_context()
        # Kernels of TensorRT for RTX are compiled when a shape is first run; the cache keeps them for the next process.
        config = self._engine.create_runtime_config()
        self._cache = config.create_runtime_cache()
        with contextlib.suppress(OSError):
            self._cache.deserialize(self._cache_file.read_bytes())
        config.set_runtime_cache(self._cache)
        return self._engine.create_execution_context(config)

    def run(self, feed: Feed) -> Outputs:
        """See ``Engine.run``."""
        if self._engine is None:
            raise EngineFailed(f"engine {self.id} is closed")
        rows, length = next(iter(feed.values())).shape
        most = max(profile[0][1] for profile in self._profiles)
        self._cuda.use()
        parts = [self._run_part({n: v[i : i + most] for n, v in feed.items()}, length) for i in range(0, rows, most)]
        return {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in self.outputs}

    def _run_part(self, feed: Feed, length: int) -> Outputs:
        rows = len(next(iter(feed.values())))
        key = (rows, length)
        self._prepare(key)
        for spec in self.inputs:
            self._buffers[spec.name].view(key)[...] = feed[spec.name]
        graph = self._graphs.get(key)
        if graph is not None:
            self._graphs.move_to_end(key)
            self._cuda.call("cudaGraphLaunch", graph, self._stream)
        else:
            self._enqueue(key)
        self._cuda.call("cudaStreamSynchronize", self._stream)
        self._calls[key] += 1
        if graph is None and self._calls[key] == CAPTURE_AFTER:
            self._capture(key)
        return {spec.name: self._buffers[spec.name].view((rows, spec.shape[1])).copy() for spec in self.outputs}

    def _prepare(self, key: Key) -> None:
        """Profile, shapes and buffers for a call of [rows, length]."""
        profile = choose_profile(self._profiles, *key, engine_id=self.id)
        if profile != self._profile:
            if not self._context.set_optimization_profile_async(profile, int(self._stream)):
                raise EngineFailed(f"engine {self.id}: profile", found=profile)
            self._profile = profile
            self._drop_graphs()  # they were captured under the other one
        moved = False
        for spec in self.inputs:
            moved |= self._buffers[spec.name].reserve(key[0] * key[1])
        for spec in self.outputs:
            moved |= self._buffers[spec.name].reserve(key[0] * spec.shape[1])
        if moved:
            self._drop_graphs()
        if key in self._graphs:
            return
        for spec in self.inputs:
            if not self._context.set_input_shape(spec.name, key):
                raise EngineFailed(f"engine {self.id}: shape of {spec.name}", found=key)
        for spec in (*self.inputs, *self.outputs):
            if not self._context.set_tensor_address(spec.name, self._buffers[spec.name].device):
                raise EngineFailed(f"engine {self.id}: address of {spec.name}")

    def _enqueue(self, key: Key) -> None:
        for spec in self.inputs:
            self._buffers[spec.name].upload(key[0] * key[1], self._stream)
        if not self._context.execute_async_v3(int(self._stream)):
            raise EngineFailed(f"engine {self.id} can't run {key[0]} rows of {key[1]} tokens")
        for spec in self.outputs:
            self._buffers[spec.name].download(key[0] * spec.shape[1], self._stream)

    def _capture(self, key: Key) -> None:
        """Record a call of this shape; a shape that can't be recorded goes on without."""
        if os.environ.get(GRAPHS_VARIABLE) == "0":
            return
        mode = self._cuda.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        try:
            self._cuda.call("cudaStreamBeginCapture", self._stream, mode)
            try:
                self._enqueue(key)
            finally:
                recorded = self._cuda.call("cudaStreamEndCapture", self._stream)
            self._graphs[key] = self._cuda.call("cudaGraphInstantiate", recorded, 0)
            self._cuda.call("cudaGraphDestroy", recorded)
        except EngineFailed:
            return
        while len(self._graphs) > MOST_GRAPHS:
            self._cuda.call("cudaGraphExecDestroy", self._graphs.popitem(last=False)[1])

    def _drop_graphs(self) -> None:
        while self._graphs:
            self._cuda.call("cudaGraphExecDestroy", self._graphs.popitem()[1])

    def close(self) -> None:
        """See ``Engine.close``."""
        if self._engine is None:
            return
        self._cuda.use()
        self._drop_graphs()
        self._keep_runtime_cache()
        self._context = self._cache = self._engine = None
        for buffer in self._buffers.values():
            buffer.free()
        self._cuda.call("cudaStreamDestroy", self._stream)

    def _keep_runtime_cache(self) -> None:
        if self._cache is None:
            return
        content = self._cache.serialize()
        with contextlib.suppress(OSError):
            self._cache_file.parent.mkdir(parents=True, exist_ok=True)
            draft = self._cache_file.with_suffix(f".{os.getpid()}")
            draft.write_bytes(bytes(memoryview(content)))
            draft.replace(self._cache_file)


Profiles = tuple[tuple[tuple[int, int], tuple[int, int]], ...]


def read_plan(entry: EngineEntry, model_file: Path) -> tuple[bytes, Profiles]:
    """A plan that is whole, and for each of its profiles ((least, most) rows, (least, most) length).

    A damaged plan can take the process down, and the library's own check finds little: its digest is compared first.

    Raises:
        CorruptBundle: the plan isn't the one that the sidecar describes, or the sidecar can't be read.
    """
    try:
        sidecar = json.loads(model_file.with_name(SIDECAR_NAME).read_text(encoding="utf-8"))
        plan = model_file.read_bytes()
        profiles = tuple(
            ((one["rows"][0], one["rows"][2]), (one["length"][0], one["length"][2]))
            for one in sidecar["options"]["profiles"]
        )
        digest = sidecar["sha256"]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        name = f"{Path(str(entry.file)).parent.as_posix()}/{SIDECAR_NAME}"
        raise CorruptBundle(f"engine {entry.id}: {SIDECAR_NAME} can't be read ({error})", changed=(name,)) from None
    if hashlib.sha256(plan).hexdigest() != digest:
        raise CorruptBundle(f"engine {entry.id}: the plan is damaged", changed=(str(entry.file),))
    return plan, profiles


def choose_profile(profiles: Profiles, rows: int, length: int, *, engine_id: str) -> int:
    """The number of the narrowest profile with room for a call.

    Raises:
        EngineFailed: none has.
    """
    fit = [
        (profile[0][1] - profile[0][0], number)
        for number, profile in enumerate(profiles)
        if profile[0][0] <= rows <= profile[0][1] and profile[1][0] <= length <= profile[1][1]
    ]
    if not fit:
        known = "; ".join(f"rows {r[0]} to {r[1]}, length {t[0]} to {t[1]}" for r, t in profiles)
        raise EngineFailed(
            f"engine {engine_id} has no profile for the call", found=f"{rows} rows of {length} tokens", wanted=known
        )
    return min(fit)[1]


def runtime_cache_file(entry: EngineEntry, plan: bytes) -> Path:
    """Where compiled kernels of a plan are kept between processes."""
    own = os.environ.get("NLPDEPLOY_CACHE")
    root = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nlpdeploy"
    return root / "tensorrt-kernels" / f"{hashlib.sha256(plan).hexdigest()[:32]}-{entry.valid_for.get('gpu')}.cache"


def load_engine(entry: EngineEntry, model_file: Path, options: EngineOptions) -> TensorRTEngine:
    """Load a plan; see ``catalogue.Loader``."""
    return TensorRTEngine(entry, model_file, options)
