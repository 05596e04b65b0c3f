"""A half graph in fp32 arithmetic, each result rounded to half: what overflows or vanishes there does so here.

ONNX Runtime's own run of a half graph on a CPU shows neither: it computes in fp32 and takes the casts between two such
nodes away, even with its optimisations off, so that values of a million go through a half graph unharmed. Here every
node's result goes through a pair of explicit casts, which stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .half_types import CONTROL_FLOW, bodies
from .rounding import TYPES, Precision
from .standard import all_graphs, all_nodes, owner

if TYPE_CHECKING:
    import onnx_ir as ir

MOVING = frozenset(
    "Concat DepthToSpace Expand Flatten Gather GatherElements GatherND Identity Reshape Slice SpaceToDepth Split "
    "Squeeze Tile Transpose Unsqueeze Where".split()
)
"""Operators that hand values on as they are: rounded ones need no second rounding."""


def emulate_half(half: ir.Model, precision: Precision) -> ir.Model:
    """Make the fp32 graph that answers as the half graph does, up to what happens inside of one node.

    Args:
        half: as ``passes.half.to_half`` makes it; left as it is.
        precision: of it.

    Returns:
        A graph of the same inputs, outputs and nodes, and of the pairs between them. Constants are fp32 with the values
        of half.
    """
    import onnx_ir as ir

    model = half.clone()
    dtype = ir.DataType[TYPES[precision].onnx]
    taken = {value.name for node in all_nodes(model) for value in node.outputs}
    halves = [value for node in all_nodes(model) for value in node.outputs if value.dtype is dtype]
    for node in list(all_nodes(model)):
        if node.op_type == "Cast" and node.outputs[0].dtype is dtype:
            node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
        elif node.op_type == "ConstantOfShape" and node.outputs[0].dtype is dtype:
            fill = np.asarray(node.attributes["value"].as_tensor().numpy(), np.float32)
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(fill))
        for body in bodies(node):
            halves += [value for value in body.inputs if value.dtype is dtype]
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            if value.dtype is dtype and value.const_value is not None:
                array = np.asarray(value.const_value.numpy(), np.float32)
                value.const_value = ir.Tensor(array, name=value.name)
                value.type = ir.TensorType(ir.DataType.FLOAT)
    for value in halves:
        value.type = ir.TensorType(ir.DataType.FLOAT)
        producer = value.producer()
        if producer is not None and producer.op_type not in MOVING and producer.op_type not in CONTROL_FLOW:
            _round(value, dtype, taken)
    return model


def _round(value: ir.Value, dtype: Any, taken: set[Any]) -> None:
    """Put a pair of casts between a tensor and its readers."""
    import onnx_ir as ir

    graph, producer = owner(value), value.producer()
    down = ir.node("Cast", [value], {"to": int(dtype)}, name=f"Round_{value.name}_down")
    up = ir.node("Cast", [down.outputs[0]], {"to": int(ir.DataType.FLOAT)}, name=f"Round_{value.name}_up")
    readers = list(value.uses())
    for reader, index in readers:
        if reader is not down:
            reader.replace_input_with(index, up.outputs[0])
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = up.outputs[0]
    name, exact, rounded = value.name, f"{value.name}_exact", f"{value.name}_rounded"
    while exact in taken or rounded in taken:
        exact, rounded = f"{exact}_", f"{rounded}_"
    taken |= {exact, rounded}
    value.name, down.outputs[0].name, up.outputs[0].name = exact, rounded, name
    down.outputs[0].type, up.outputs[0].type = ir.TensorType(dtype), ir.TensorType(ir.DataType.FLOAT)
    down.outputs[0].shape = up.outputs[0].shape = value.shape
    assert producer is not None  # noqa: S101 - only what a node made is rounded
    graph.insert_after(producer, [down, up])
