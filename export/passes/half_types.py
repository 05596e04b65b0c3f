"""Which nodes and tensors of an fp32 graph may be half, by the operators' schemas. Decides types, changes nothing.

An operator's schema says for each input and output which type variable it follows and which types that may take; a
variable without the half type stays FLOAT (Range, the scales of Resize). A node whose type comes from an attribute that
isn't known here stays FLOAT whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeGuard

from ...bundle.errors import Unsupported
from .standard import all_nodes, default_opset

if TYPE_CHECKING:
    import onnx_ir as ir

CONTROL_FLOW = ("If", "Loop", "Scan")
RETYPED = ("Cast", "ConstantOfShape")
"""Operators whose output's type stands in an attribute that a pass can change."""
STASHED = ("LayerNormalization",)
"""Operators with outputs that stay FLOAT whatever comes in (mean and deviation, by ``stash_type``)."""


@dataclass
class HalfPlan:
    """Who computes in half, which tensors are half.

    Attributes:
        half_nodes: nodes that compute in half.
        forced: names of nodes that stay FLOAT though nobody asked for it, and why.
        half_values: FLOAT tensors that become half.
    """

    half_nodes: set[Any] = field(default_factory=set)
    forced: dict[str, str] = field(default_factory=dict)
    half_values: set[Any] = field(default_factory=set)


def plan_half(model: ir.Model, half: str, keep: Collection[str]) -> HalfPlan:
    """Decide, for a standardised model.

    Args:
        model: standardised; not changed.
        half: the type's name in schemas, e.g. ``tensor(float16)``.
        keep: names of nodes that compute in fp32.
    """
    plan = HalfPlan()
    schemas = Schemas(default_opset(model), half)
    for node in all_nodes(model):
        if node.op_type == "SequenceMap":
            raise Unsupported(f"operator SequenceMap of node {node.name!r} in half precision")
        if node.name in keep or not touches_float(node):
            continue
        reason = schemas.refuses(node)
        if reason is None:
            plan.half_nodes.add(node)
        else:
            plan.forced[str(node.name)] = reason
    for node in index_arithmetic(model):
        if node in plan.half_nodes:
            plan.half_nodes.discard(node)
            plan.forced[str(node.name)] = "arithmetic on integers: its result is an index or a condition"
    _plan_values(model, schemas, plan)
    return plan


def touches_float(node: ir.Node) -> bool:
    """Whether an fp32 tensor goes in or comes out."""
    return any(is_float(value) for value in (*node.inputs, *node.outputs))


def is_float(value: ir.Value | None) -> TypeGuard[ir.Value]:
    """Whether it is an fp32 tensor."""
    import onnx_ir as ir

    return value is not None and value.dtype is ir.DataType.FLOAT


class Schemas:
    """What the operators of an opset allow.

    Args:
        opset: of the default domain.
        half: the half type's name in schemas.
    """

    def __init__(self, opset: int, half: str) -> None:
        self._opset = opset
        self._half = half

    def refuses(self, node: ir.Node) -> str | None:
        """Why a node can't compute in half; None where it can."""
        if node.op_type in CONTROL_FLOW or node.op_type in RETYPED:
            return None
        schema = self._schema(node)
        floats = [(formal, value) for formal, value in self._pairs(schema.inputs, node.inputs) if is_float(value)]
        results = [(formal, value) for formal, value in self._pairs(schema.outputs, node.outputs) if is_float(value)]
        variables = {formal.type_str for formal, _ in floats}
        for formal, _ in results:
            bound = formal.type_str in variables
            if not bound and node.op_type not in STASHED:
                return f"{node.op_type} takes its type from an attribute"
        if not any(self._half in formal.types for formal, _ in (*floats, *results)):
            return f"{node.op_type} is not defined for {self._half}"
        return None

    def half_input(self, node: ir.Node, index: int) -> bool:
        """Whether a FLOAT input of a half node becomes half."""
        if node.op_type in CONTROL_FLOW or node.op_type == "Cast":
            return True
        formal = self._formal(self._schema(node).inputs, index)
        return self._half in formal.types

    def half_output(self, node: ir.Node, index: int) -> bool:
        """Whether a FLOAT output of a half node becomes half."""
        if node.op_type in CONTROL_FLOW or node.op_type in RETYPED:
            return True
        schema = self._schema(node)
        formal = self._formal(schema.outputs, index)
        sources = [f for f, value in self._pairs(schema.inputs, node.inputs) if is_float(value)]
        return any(f.type_str == formal.type_str and self._half in f.types for f in sources)

    def _schema(self, node: ir.Node) -> Any:
        import onnx

        return onnx.defs.get_schema(node.op_type, self._opset, "")

    def _pairs(self, formals: Any, values: Any) -> Iterator[tuple[Any, Any]]:
        return ((self._formal(formals, i), value) for i, value in enumerate(values))

    @staticmethod
    def _formal(formals: Any, index: int) -> Any:
        return formals[min(index, len(formals) - 1)]  # the last one may be variadic


def index_arithmetic(model: ir.Model) -> set[ir.Node]:
    """Nodes that compute in floats on the way from integers to integers, as bucketed positions do.

    Half keeps whole numbers up to 2,048 only. Such a node takes floats that come from integers and single numbers
    alone, and what it makes ends in an integer or a condition.
    """
    from_integers: set[Any] = set()
    order = list(all_nodes(model))
    for node in order:
        floats = [value for value in node.inputs if is_float(value)]
        if node.op_type in CONTROL_FLOW or not touches_float(node):
            continue
        single = [value for value in floats if value.const_value is not None and value.const_value.size == 1]
        derived = [value for value in floats if value.producer() in from_integers]
        integers = [value for value in node.inputs if value is not None and not is_float(value)]
        if len(single) + len(derived) == len(floats) and (derived or (integers and node.op_type != "Where")):
            from_integers.add(node)
    ends: set[Any] = set()
    for node in reversed(order):
        if node not in from_integers:
            continue
        consumers = [use.node for value in node.outputs for use in value.uses()]
        to_integers = any(not is_float(value) for value in node.outputs if value.name)
        if to_integers or any(consumer in ends for consumer in consumers):
            ends.add(node)
    return ends


def _plan_values(model: ir.Model, schemas: Schemas, plan: HalfPlan) -> None:
    for node in all_nodes(model):
        if node not in plan.half_nodes:
            continue
        for index, value in enumerate(node.outputs):
            if is_float(value) and schemas.half_output(node, index):
                plan.half_values.add(value)
        for body in bodies(node):
            # What a loop carries has one type inside and outside.
            plan.half_values.update(value for value in body.inputs if is_float(value))
    for node in all_nodes(model):
        # A converter read by an fp32 island goes on making fp32: rounded first and cast back, it would have lost bits.
        if node in plan.half_nodes and node.op_type in RETYPED and node.outputs[0] in plan.half_values:
            readers = [use.node for use in node.outputs[0].uses()]
            indices = [use.idx for use in node.outputs[0].uses()]
            halves = [wants_half(schemas, plan, *reader) for reader in zip(readers, indices, strict=True)]
            if node.outputs[0].is_graph_output() or not all(halves):
                plan.half_nodes.discard(node)
                plan.half_values.discard(node.outputs[0])


def wants_half(schemas: Schemas, plan: HalfPlan, node: ir.Node, index: int) -> bool:
    """Whether a node reads its FLOAT input as half."""
    return node in plan.half_nodes and schemas.half_input(node, index)


def bodies(node: ir.Node) -> tuple[ir.Graph, ...]:
    """The graphs inside of an If, Loop or Scan."""
    import onnx_ir as ir

    return tuple(
        attribute.as_graph() for attribute in node.attributes.values() if attribute.type is ir.AttributeType.GRAPH
    )
