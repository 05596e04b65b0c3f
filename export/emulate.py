"""Half precision without the hardware: engines that compute in fp32 and round every node's result to half.

Parity that was found so is called *emulated*. It shows what overflows, vanishes or loses its last bits between nodes;
:data:`LIMITS` says what it can't show.
"""

from __future__ import annotations

import gc
from collections.abc import Collection
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle.errors import EngineFailed
from ..bundle.specs import Layout, TensorSpec
from ..runtime.engine import Feed, Outputs
from .passes.constants import Roundings
from .passes.emulation import emulate_half
from .passes.half import HalfReport, to_half
from .passes.rounding import TYPES, Precision
from .sessions import SharedSession, without_weights

if TYPE_CHECKING:
    import onnx_ir as ir

LIMITS = (
    "emulated: each node's result is rounded to half, what happens inside of a node (sums of a matrix product, "
    "Softmax, LayerNormalization, Gelu) is not, and kernels that fuse nodes round elsewhere; neither bit-exact nor a "
    "bound"
)
"""What emulated parity can't see, for manifests and reports."""


LARGE_BYTES = 256 << 20
"""Weights from which on ONNX Runtime leaves them as they are: a search holds the checkpoint's beside them."""


class EmulatedEngine:
    """A half graph, emulated; keeps the contract of ``runtime/engine.py``.

    Args:
        half: as ``passes.half.to_half`` makes it.
        precision: of it.
        engine_id: the id of the engine that it stands for.
        threads: intra-op threads.

    Raises:
        EngineFailed: ONNX Runtime can't load it, or doesn't round where it is told to.
    """

    def __init__(self, half: ir.Model, precision: Precision, *, engine_id: str, threads: int = 1) -> None:
        _check_rounding(precision)
        self.id = engine_id
        self.layout = Layout.PADDED
        self.inputs = tuple(_spec(value) for value in half.graph.inputs)
        self.outputs = tuple(_spec(value) for value in half.graph.outputs)
        self._names = [spec.name for spec in self.outputs]
        graph, weights = without_weights(emulate_half(half, precision))
        packed = sum(array.nbytes for array in weights.values()) < LARGE_BYTES
        self._session: SharedSession | None = SharedSession(graph, weights, threads=threads, packed=packed)

    def run(self, feed: Feed) -> Outputs:
        """See ``Engine.run``."""
        if self._session is None:
            raise EngineFailed(f"engine {self.id} is closed")
        values = self._session.run(self._names, feed)
        return {name: np.asarray(value, np.float32) for name, value in zip(self._names, values, strict=True)}

    def close(self) -> None:
        """See ``Engine.close``."""
        self._session = None
        # The emulated graph's nodes and values know each other: its weights would stay until the collector comes by.
        gc.collect()


class Emulator:
    """Emulated engines of one fp32 graph, for any set of nodes in fp32. Constants are rounded once for all of them.

    Args:
        model: fp32 graph, standardised.
        precision: the half type.
        engine_id: the id of the engine that they stand for.
        threads: intra-op threads.
    """

    def __init__(self, model: ir.Model, precision: Precision, *, engine_id: str, threads: int = 1) -> None:
        self._model = model
        self._precision: Precision = precision
        self._id = engine_id
        self._threads = threads
        self.roundings = Roundings()

    def engine(self, keep_fp32: Collection[str]) -> tuple[EmulatedEngine, HalfReport]:
        """The engine with these nodes in fp32, and what became of the graph."""
        half, report = to_half(self._model, precision=self._precision, keep_fp32=keep_fp32, roundings=self.roundings)
        return EmulatedEngine(half, self._precision, engine_id=self._id, threads=self._threads), report


@cache
def _check_rounding(precision: Precision) -> None:
    """Have the installed ONNX Runtime overflow where the half type does, on a graph of two nodes.

    Raises:
        EngineFailed: it optimises the rounding away.
    """
    import onnx_ir as ir

    half = TYPES[precision]
    size = half.largest * 0.75 if precision == "fp16" else 2.0**-100
    value = ir.val("x", dtype=ir.DataType.FLOAT, shape=[1])
    twice = ir.node("Add", [value, value], name="twice")
    back = ir.node("Sub", [twice.outputs[0], value], name="back")
    for node, name in ((twice, "sum"), (back, "y")):
        node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(ir.DataType.FLOAT)
        node.outputs[0].shape = ir.Shape([1])
    graph = ir.Graph([value], [back.outputs[0]], nodes=[twice, back], opset_imports={"": 20}, name="canary")
    emulated = emulate_half(to_half(ir.Model(graph, ir_version=9), precision=precision)[0], precision)
    given = np.float32(size * 1.004 if precision == "bf16" else size)
    (answer,) = SharedSession(*without_weights(emulated), threads=1).run(["y"], {"x": np.array([given])})
    rounds = not np.isfinite(answer[0]) if precision == "fp16" else answer[0] != given
    if not rounds:
        raise EngineFailed(
            f"ONNX Runtime's rounding to {precision}", found=f"{given:g} + {given:g} - {given:g} = {answer[0]:g}",
            wanted="the rounding that the graph asks for",
            mend="use the onnxruntime that this release was tested with",
        )  # fmt: skip


def _spec(value: Any) -> TensorSpec:
    words = {"FLOAT": "FP32", "INT64": "INT64", "INT32": "INT32", "BOOL": "BOOL"}
    shape = tuple(dim if isinstance(dim, int) else -1 for dim in value.shape)
    return TensorSpec(str(value.name), words.get(value.dtype.name, value.dtype.name), shape)
