"""Strongly typed half precision graphs from fp32 ones: what TensorRT 11 builds as it stands.

Each node computes in half, but for those that are to stay in fp32, those whose operator has no half, and arithmetic on
integers. Where the two meet, one Cast stands for all readers. Graph inputs and outputs keep names and types.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...bundle.errors import EngineFailed, InvalidInput
from .constants import Roundings
from .half_types import HalfPlan, Schemas, bodies, is_float, plan_half, wants_half
from .rounding import TYPES, Precision, RoundedTensor, round_tensor
from .standard import all_graphs, all_nodes, default_opset, load_standard, owner, standardise

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class HalfReport:
    """What became of a graph.

    Attributes:
        precision: ``fp16`` or ``bf16``.
        nodes: nodes of the fp32 graph that compute on floats.
        half: of those, nodes that compute in half.
        keep_fp32: names of the nodes that stay fp32 because it was asked for, in the graph's order.
        forced_fp32: (name, why) of the nodes that stay fp32 because they can't be half.
        casts: Cast nodes that were added.
        elements: values in the initializers that became half.
        clamped: of those, beyond the range and set to its end; mask constants are.
        underflowed: of those, not zero before and zero after.
        initializers: those that lost more than last bits, by name.
    """

    precision: Precision
    nodes: int
    half: int
    keep_fp32: tuple[str, ...]
    forced_fp32: tuple[tuple[str, str], ...]
    casts: int
    elements: int
    clamped: int
    underflowed: int
    initializers: tuple[RoundedTensor, ...]

    def __str__(self) -> str:
        """For manifests and tables, e.g. ``211 of 211 nodes in fp16, 1 constant clamped, 11 weights became zero``."""
        kept = f", {len(self.keep_fp32)} kept in fp32" if self.keep_fp32 else ""
        return (
            f"{self.half} of {self.nodes} nodes in {self.precision}{kept}, {self.clamped} of {self.elements} constants "
            f"clamped, {self.underflowed} became zero"
        )


def to_half(
    model: ir.Model,
    *,
    precision: Precision = "fp16",
    keep_fp32: Collection[str] = (),
    roundings: Roundings | None = None,
) -> tuple[ir.Model, HalfReport]:
    """Make the half graph.

    Args:
        model: fp32 graph of standard operators; not changed but for :func:`~.standard.standardise`. Weights that need
            no rounding are shared with the result.
        precision: ``fp16`` or ``bf16``.
        keep_fp32: names of nodes, of subgraphs too, that compute in fp32.
        roundings: remembers rounded constants, for callers that halve one graph many times.

    Returns:
        The half graph, whose nodes have the names that they had, and what became of it.

    Raises:
        InvalidInput: a name that no node has.
        EngineFailed: tensors that can't be typed.
        Unsupported: opset or operators that builders don't know.
    """
    result = standardise(model).clone()
    unknown = sorted(set(keep_fp32) - {str(node.name) for node in all_nodes(result)})
    if unknown:
        raise InvalidInput("nodes to keep in fp32", found=", ".join(unknown), wanted="names of nodes of the graph")
    return _Halving(result, precision, frozenset(keep_fp32), roundings or Roundings()).run()


def write_half(
    file: Path, target: Path, *, precision: Precision = "fp16", keep_fp32: Collection[str] = ()
) -> HalfReport:
    """:func:`to_half` from file to file; the result is checked, and loaded by ONNX Runtime where that has the type.

    Args:
        file: fp32 ONNX file.
        target: where the half graph goes; its folder exists.
        precision: ``fp16`` or ``bf16``.
        keep_fp32: names of nodes that compute in fp32.

    Raises:
        EngineFailed: the result doesn't pass the checker or can't be loaded.
        NlpdeployError: as :func:`to_half`.
    """
    from .files import save_ir

    model, report = to_half(load_standard(file), precision=precision, keep_fp32=keep_fp32)
    save_ir(model, target)
    check_half(target, precision)
    return report


def check_half(file: Path, precision: Precision) -> None:
    """Have ``onnx.checker`` infer all types strictly and ONNX Runtime load the file, before any builder sees it.

    ONNX Runtime's CPU provider knows no bfloat16, so that such graphs meet the checker alone.

    Raises:
        EngineFailed: with the first line of what was said.
    """
    import onnx

    try:
        onnx.checker.check_model(str(file), full_check=True)
        if precision == "fp16":
            import onnxruntime as ort

            options = ort.SessionOptions()
            options.log_severity_level = 3
            options.intra_op_num_threads = 1
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - both raise kinds of their own
        line = (str(error).strip().splitlines() or [""])[0]
        raise EngineFailed(f"the {precision} graph is not valid", found=f"{type(error).__name__}: {line}") from None


class _Halving:
    """One run of the pass over one model."""

    def __init__(self, model: ir.Model, precision: Precision, keep: frozenset[str], roundings: Roundings) -> None:
        import onnx_ir as ir

        self.model = model
        self.precision = precision
        self.keep = keep
        self.roundings = roundings
        self.half = TYPES[precision]
        self.dtype = ir.DataType[self.half.onnx]
        self.schemas = Schemas(default_opset(model), self.half.schema)
        self.plan: HalfPlan = plan_half(model, self.half.schema, keep)
        self.casts: dict[tuple[ir.Value, bool], ir.Value] = {}
        self.constants: dict[ir.Value, ir.Value] = {}
        self.rounded: dict[Any, RoundedTensor] = {}
        self.names = {value.name for node in all_nodes(model) for value in node.outputs}
        for graph in all_graphs(model):
            self.names |= {*graph.initializers, *(value.name for value in graph.inputs)}
        self.node_names = {node.name for node in all_nodes(model)}

    def run(self) -> tuple[ir.Model, HalfReport]:
        import onnx_ir as ir

        nodes = list(all_nodes(self.model))
        floats = [node for node in nodes if any(is_float(v) for v in (*node.inputs, *node.outputs))]
        constants = [value for graph in all_graphs(self.model) for value in graph.initializers.values()]
        # Readers are decided on before any tensor changes its type.
        reads = [
            (node, index, wants_half(self.schemas, self.plan, node, index))
            for node in floats
            for index, value in enumerate(node.inputs)
            if is_float(value)
        ]
        results = [(node, body) for node in nodes for body in bodies(node)]
        for value in self.plan.half_values:
            value.type = ir.TensorType(self.dtype)
        for node, index, half in reads:
            value = node.inputs[index]
            if value is not None:
                node.replace_input_with(index, self._typed(value, half))
        for node, body in results:
            self._type_results(node, body)
        self._restore_outputs()
        for node in self.plan.half_nodes:
            self._retype_attribute(node)
        for value in constants:
            self._drop_unused(value)
        order = [str(node.name) for node in nodes]
        lossy = [item for item in self.rounded.values() if item.clamped or item.underflowed or item.error > 0.01]
        return self.model, HalfReport(
            precision=self.precision,
            nodes=len(floats),
            half=len(self.plan.half_nodes),
            keep_fp32=tuple(name for name in order if name in self.keep),
            forced_fp32=tuple((name, self.plan.forced[name]) for name in order if name in self.plan.forced),
            casts=len(self.casts),
            elements=sum(item.elements for item in self.rounded.values()),
            clamped=sum(item.clamped for item in self.rounded.values()),
            underflowed=sum(item.underflowed for item in self.rounded.values()),
            initializers=tuple(sorted(lossy, key=lambda item: item.name)),
        )

    def _typed(self, value: ir.Value, half: bool) -> ir.Value:
        """The tensor in the type wanted: itself, a rounded constant, or what the one Cast for it makes."""
        if value.is_initializer() and not value.is_graph_input():
            return self._constant(value) if half else value
        if (value in self.plan.half_values) == half:
            return value
        if (value, half) not in self.casts:
            self.casts[value, half] = self._cast(value, half)
        return self.casts[value, half]

    def _cast(self, value: ir.Value, half: bool) -> ir.Value:
        import onnx_ir as ir

        to = self.dtype if half else ir.DataType.FLOAT
        word = self.precision if half else "fp32"
        cast = ir.node(
            "Cast", [value], {"to": int(to)}, name=self._fresh(f"Cast_{value.name}_to_{word}", self.node_names)
        )
        made = cast.outputs[0]
        made.name = self._fresh(f"{value.name}_{word}", self.names)
        made.type, made.shape = ir.TensorType(to), value.shape
        producer, graph = value.producer(), owner(value)
        if producer is not None:
            graph.insert_after(producer, cast)
        elif len(graph):
            graph.insert_before(graph[0], cast)
        else:
            graph.append(cast)
        return made

    def _constant(self, value: ir.Value) -> ir.Value:
        import onnx_ir as ir

        if value not in self.constants:
            graph = owner(value)
            rounded, self.rounded[value] = self.roundings.rounded(value, self.precision)
            name = self._fresh(f"{value.name}_{self.precision}", self.names)
            made = ir.Value(name=name, type=ir.TensorType(self.dtype), shape=value.shape)
            made.const_value = ir.Tensor(rounded, dtype=self.dtype, name=name)
            graph.register_initializer(made)
            self.constants[value] = made
        return self.constants[value]

    def _type_results(self, node: ir.Node, body: ir.Graph) -> None:
        """What a body hands out has the type of the node's outputs; so has what a loop takes in again."""
        half = node in self.plan.half_nodes
        for index, value in enumerate(body.outputs):
            if is_float(value) or value in self.plan.half_values:
                body.outputs[index] = self._typed(value, half)

    def _restore_outputs(self) -> None:
        """Graph outputs that became half get a Cast that takes over the name."""
        outputs = self.model.graph.outputs
        for index, value in enumerate(outputs):
            if value in self.plan.half_values:
                name = value.name
                made = self._typed(value, half=False)
                value.name, made.name = self._fresh(f"{name}_{self.precision}", self.names), name
                outputs[index] = made

    def _retype_attribute(self, node: ir.Node) -> None:
        import onnx_ir as ir

        if node.op_type == "Cast" and node.outputs[0] in self.plan.half_values:
            node.attributes["to"] = ir.AttrInt64("to", int(self.dtype))
        elif node.op_type == "ConstantOfShape" and node.outputs[0] in self.plan.half_values:
            value = node.attributes.get("value")
            array = np.zeros(1, np.float32) if value is None else np.asarray(value.as_tensor().numpy(), np.float32)
            rounded, self.rounded[node] = round_tensor(str(node.name), array, self.precision)
            node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(rounded, dtype=self.dtype))

    def _drop_unused(self, value: ir.Value) -> None:
        """An fp32 constant without readers goes; its half takes over the name."""
        if value.uses() or value.is_graph_output() or value.is_graph_input() or value not in self.constants:
            return
        made = self.constants[value]
        del owner(value).initializers[str(value.name)]
        made.name = value.name

    @staticmethod
    def _fresh(stem: str, taken: set[Any]) -> str:
        name, count = stem, 1
        while name in taken:
            name, count = f"{stem}_{count}", count + 1
        taken.add(name)
        return name
