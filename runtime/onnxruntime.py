"""ONNX Runtime on the CPU. Imported only when an engine of this runtime is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from ..bundle.errors import EngineFailed
from ..bundle.manifest import EngineEntry
from ..bundle.specs import Layout, TensorSpec
from .engine import EngineOptions, Feed, Outputs

PROVIDER = "CPUExecutionProvider"
SEVERITY_ERROR = 3


class OnnxEngine:
    """A session with one feed at a time; keeps the contract of ``runtime/engine.py``.

    Raises:
        EngineFailed: the file can't be loaded, or the session doesn't run on the provider asked for.
    """

    def __init__(self, entry: EngineEntry, model_file: Path, options: EngineOptions) -> None:
        self.id: str = entry.id
        self.layout: Layout = entry.layout
        self.inputs: tuple[TensorSpec, ...] = entry.inputs
        self.outputs: tuple[TensorSpec, ...] = entry.outputs
        self._names = [spec.name for spec in entry.outputs]
        self._session: Any = self._open(model_file, options)

    def _open(self, model_file: Path, options: EngineOptions) -> Any:
        try:
            session = ort.InferenceSession(str(model_file), session_options(options), providers=[PROVIDER])
        except Exception as error:  # noqa: BLE001 - the runtime raises a dozen kinds of its own
            raise _failed(f"engine {self.id} can't be loaded by ONNX Runtime", error) from None
        if session.get_providers() != [PROVIDER]:
            raise EngineFailed(f"provider of engine {self.id}", found=session.get_providers(), wanted=PROVIDER)
        check_names(self.id, session, self.inputs, self._names)
        return session

    def run(self, feed: Feed) -> Outputs:
        """See ``Engine.run``."""
        if self._session is None:
            raise EngineFailed(f"engine {self.id} is closed")
        try:
            values = self._session.run(self._names, feed)
        except Exception as error:  # noqa: BLE001 - the runtime raises a dozen kinds of its own
            raise _failed(f"engine {self.id}", error) from None
        return {name: np.asarray(value, np.float32) for name, value in zip(self._names, values, strict=True)}

    def close(self) -> None:
        """See ``Engine.close``."""
        self._session = None


def check_names(engine_id: str, session: Any, inputs: Sequence[TensorSpec], outputs: Sequence[str]) -> None:
    """See that a session has the inputs and outputs that its entry names.

    Raises:
        EngineFailed: it has others.
    """
    found = {node.name for node in session.get_inputs()}, {node.name for node in session.get_outputs()}
    wanted = {spec.name for spec in inputs}, set(outputs)
    if found != wanted:
        raise EngineFailed(f"inputs and outputs of engine {engine_id}", found=found, wanted=wanted)


def session_options(options: EngineOptions) -> Any:
    """How sessions run here: one operator at a time on ``threads`` threads, memory given back after each run.

    Without an arena and without a memory pattern a shape never seen before costs nothing that stays: an arena keeps
    its high-water mark for good, and a pattern is remembered for each shape.
    """
    wanted = ort.SessionOptions()
    wanted.intra_op_num_threads = options.threads
    wanted.inter_op_num_threads = 1
    wanted.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    wanted.enable_mem_pattern = False
    wanted.enable_cpu_mem_arena = False
    wanted.log_severity_level = SEVERITY_ERROR
    wanted.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.exclusive else "0")
    return wanted


def load_engine(entry: EngineEntry, model_file: Path, options: EngineOptions) -> OnnxEngine:
    """Load an ONNX file; see ``catalogue.Loader``."""
    return OnnxEngine(entry, model_file, options)


def _failed(what: str, error: Exception) -> EngineFailed:
    return EngineFailed(what, found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
