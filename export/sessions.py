"""ONNX Runtime sessions of graphs in memory, whose weights are handed over beside them: no file, no limit of 2 GB.

ONNX Runtime takes one copy of them while the session lives, as they are or laid out anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle.errors import EngineFailed

if TYPE_CHECKING:
    import onnx_ir as ir

INLINE_BYTES = 1024
"""Constants up to here travel inside the graph."""


class SharedSession:
    """A session with every optimisation off.

    Args:
        graph: an ``onnx.ModelProto``.
        weights: arrays of its constants that are stubs, see :func:`without_weights`; they must not change meanwhile.
        threads: intra-op threads.
        packed: whether ONNX Runtime may lay its copy out anew, which is faster and takes more memory meanwhile.

    Raises:
        EngineFailed: ONNX Runtime can't load the graph.
    """

    def __init__(self, graph: Any, weights: Mapping[str, Any], *, threads: int, packed: bool = True) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not packed:
            options.add_session_config_entry("session.disable_prepacking", "1")
        stubs = [tensor.name for tensor in graph.graph.initializer if tensor.name in weights]
        self._weights = [ort.OrtValue.ortvalue_from_numpy(weights[name]) for name in stubs]
        try:
            if stubs:
                options.add_external_initializers(stubs, self._weights)
            content = graph.SerializeToString()
            self._session: Any = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - the runtime raises a dozen kinds of its own
            line = (str(error).strip().splitlines() or [""])[0]
            raise EngineFailed("ONNX Runtime can't load the graph", found=f"{type(error).__name__}: {line}") from None

    def run(self, names: list[str], feed: Any) -> list[Any]:
        """The outputs of these names, as numpy arrays.

        Raises:
            EngineFailed: the runtime raised.
        """
        try:
            answers: list[Any] = self._session.run(names, feed)
        except Exception as error:  # noqa: BLE001 - the runtime raises a dozen kinds of its own
            line = (str(error).strip().splitlines() or [""])[0]
            raise EngineFailed("ONNX Runtime on a graph", found=f"{type(error).__name__}: {line}") from None
        return answers


def without_weights(model: ir.Model) -> tuple[Any, dict[str, Any]]:
    """A graph with stubs for its larger constants, and their arrays by name.

    Args:
        model: stays as it is; the arrays are its own where they lie in memory.

    Returns:
        An ``onnx.ModelProto``, and what :class:`SharedSession` wants beside it.
    """
    import onnx_ir as ir

    arrays: dict[str, Any] = {}
    kept: list[tuple[Any, Any]] = []
    try:
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or (tensor.nbytes <= INLINE_BYTES and not isinstance(tensor, ir.ExternalTensor)):
                continue
            name = str(value.name)
            arrays[name] = np.ascontiguousarray(tensor.numpy())
            kept.append((value, tensor))
            shape = ir.Shape(list(arrays[name].shape))
            value.const_value = ir.ExternalTensor("memory", 0, tensor.nbytes, tensor.dtype, shape=shape, name=name)
        return ir.serde.serialize_model(model), arrays
    finally:
        for value, tensor in kept:
            value.const_value = tensor
