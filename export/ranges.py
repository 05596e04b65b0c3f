"""How large and how small the tensors of an fp32 graph get on real text, held against half precision's range.

The graph is run in slices of some nodes, all rows through one slice before the next: every tensor of a slice is handed
out, reduced to a few numbers at once and let go. What is in memory is one slice's tensors for one batch, and what later
slices read of the batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle.specs import Layout, TensorSpec
from ..runtime.batching import lay_out
from ..runtime.engine import Feed
from ..runtime.text import Row
from .passes.constants import mask_bound
from .passes.half_types import bodies, is_float
from .passes.rounding import TYPES, HalfType, Precision
from .passes.standard import constant_array
from .sessions import SharedSession, without_weights

if TYPE_CHECKING:
    import onnx_ir as ir

SLICE_NODES = 24
BATCH_TOKENS = 512
"""Tokens of a batch, padding included; bounds the tensors of a slice."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TensorRange:
    """What one fp32 tensor held over all rows.

    Attributes:
        tensor: its name.
        node: the node that made it.
        minimum: smallest value; NaN where there was one.
        maximum: largest value; NaN where there was one.
        elements: values seen.
        overflows: of those, infinite in half or not finite before.
        underflows: of those, not zero, and zero in half.
        from_mask: it descends from clamped mask constants alone.
    """

    tensor: str
    node: str
    minimum: float
    maximum: float
    elements: int
    overflows: int
    underflows: int
    from_mask: bool = False

    @property
    def absmax(self) -> float:
        """Largest size; infinite where a value wasn't a number."""
        if math.isnan(self.minimum) or math.isnan(self.maximum):
            return math.inf
        return max(abs(self.minimum), abs(self.maximum))

    def joined(self, other: TensorRange) -> TensorRange:
        """Over the rows of both."""
        return replace(
            self,
            minimum=float(np.minimum(self.minimum, other.minimum)),
            maximum=float(np.maximum(self.maximum, other.maximum)),
            elements=self.elements + other.elements,
            overflows=self.overflows + other.overflows,
            underflows=self.underflows + other.underflows,
        )


RangeTrace = Mapping[str, TensorRange]
"""By tensor name, in the graph's order. Tensors inside of If and Loop are not seen."""


def trace_ranges(
    model: ir.Model,
    feeds: Sequence[Feed],
    *,
    precision: Precision = "fp16",
    threads: int = 1,
    progress: Progress | None = None,
) -> RangeTrace:
    """Run the fp32 graph and reduce each of its fp32 tensors.

    Mask constants beyond the half range are clamped first, as the half graph has them: what is then beyond the range
    isn't so because of a mask.

    Args:
        model: standardised; left as it is.
        feeds: batches, see :func:`trace_feeds`.
        precision: whose range.
        threads: intra-op threads.
        progress: told the slices done.

    Raises:
        EngineFailed: ONNX Runtime can't run a slice.
    """
    half = TYPES[precision]
    masks = clamped_masks(model, precision)
    derived = from_masks_alone(model, masks)
    proto, weights = without_weights(model)
    for value, array in masks.items():
        _put(proto, weights, str(value.name), array)
    slices = _slices(model)
    held: list[dict[str, Any]] = [dict(feed) for feed in feeds]
    found: dict[str, TensorRange] = {}
    for done, part in enumerate(slices):
        session = SharedSession(part.graph(proto), weights, threads=threads, packed=False)
        wanted = [*part.floats, *part.others]
        for values in held:
            answers = dict(zip(wanted, session.run(wanted, {name: values[name] for name in part.needs}), strict=True))
            for name, node in part.floats.items():
                if answers[name].size:
                    seen = reduce_range(name, node, answers[name], half)
                    found[name] = found[name].joined(seen) if name in found else seen
            values.update({name: answers[name] for name in wanted if name in part.later})
            for name in set(values) - part.later:
                del values[name]
        if progress:
            progress("tracing the ranges of the tensors", done + 1, len(slices))
    return {name: replace(item, from_mask=name in derived) for name, item in found.items()}


def trace_feeds(rows: Sequence[Row], inputs: Sequence[TensorSpec], pad_id: int) -> list[Feed]:
    """Batches of rows of like lengths, each of at most ``BATCH_TOKENS`` with its padding, or of one row."""
    batches: list[list[Row]] = []
    for row in sorted(rows, key=len):
        if batches and (len(batches[-1]) + 1) * len(row) <= BATCH_TOKENS:
            batches[-1].append(row)
        else:
            batches.append([row])
    return [lay_out(batch, Layout.PADDED, tuple(inputs), pad_id) for batch in batches]


def reduce_range(tensor: str, node: str, values: Any, half: HalfType) -> TensorRange:
    """A tensor's numbers, over all of its values."""
    low, high = float(values.min()), float(values.max())
    sizes = np.abs(values)
    within = sizes < half.overflowing  # false for NaN
    vanished = np.count_nonzero(sizes <= half.vanishing) - (values.size - np.count_nonzero(sizes))
    overflows = values.size - int(np.count_nonzero(within))
    return TensorRange(tensor, node, low, high, int(values.size), overflows, int(vanished))


def clamped_masks(model: ir.Model, precision: Precision) -> dict[ir.Value, Any]:
    """Mask constants beyond the range, and their values once clamped (float32)."""
    found = {}
    for value in model.graph.initializers.values():
        if not is_float(value) or value.const_value is None:
            continue
        array = constant_array(value)
        bound = mask_bound(value, array, precision)
        if bound is not None:
            found[value] = np.clip(array, -bound, bound).astype(np.float32)
    return found


def from_masks_alone(model: ir.Model, masks: Mapping[ir.Value, Any]) -> set[str]:
    """Tensors whose values come from clamped masks, and beside them from integers and single numbers alone."""
    plain: set[Any] = set()
    derived: set[Any] = set(masks)
    for node in model.graph:
        floats = [value for value in node.inputs if is_float(value)]
        single = {value for value in floats if value.const_value is not None and value.const_value.size == 1}
        if bodies(node) or not all(value in plain or value in derived or value in single for value in floats):
            continue
        known = derived if any(value in derived for value in floats) else plain
        known.update(value for value in node.outputs if is_float(value))
    return {str(value.name) for value in derived}


def _put(proto: Any, weights: dict[str, Any], name: str, array: Any) -> None:
    """Set a constant's values, be it a stub or inside the graph."""
    from onnx import numpy_helper

    if name in weights:
        weights[name] = array
        return
    tensor = next(item for item in proto.graph.initializer if item.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


@dataclass(frozen=True)
class _Slice:
    """Some nodes in a row.

    Attributes:
        first: index of the first node.
        last: one past the last.
        needs: what they read from outside, constants left out.
        constants: constants that they read.
        floats: the fp32 tensors that they make, with the nodes' names.
        others: tensors of other types that they make and later slices read.
        later: what is read after them.
    """

    first: int
    last: int
    needs: tuple[str, ...]
    constants: frozenset[str]
    floats: Mapping[str, str]
    others: tuple[str, ...]
    later: frozenset[str]

    def graph(self, proto: Any) -> Any:
        """The slice as a graph of its own."""
        import onnx

        whole = proto.graph
        infos = {info.name: info for info in (*whole.input, *whole.value_info, *whole.output)}
        part = onnx.ModelProto(ir_version=proto.ir_version)
        part.opset_import.extend(proto.opset_import)
        part.graph.name = f"{whole.name}_{self.first}"
        part.graph.node.extend(whole.node[self.first : self.last])
        part.graph.input.extend(infos[name] for name in self.needs)
        part.graph.output.extend(infos[name] for name in (*self.floats, *self.others))
        part.graph.initializer.extend(item for item in whole.initializer if item.name in self.constants)
        return part


def _slices(model: ir.Model) -> list[_Slice]:
    nodes = list(model.graph)
    reads = [_reads(node) for node in nodes]
    found = []
    for first in range(0, len(nodes), SLICE_NODES):
        last = min(first + SLICE_NODES, len(nodes))
        made = {value for node in nodes[first:last] for value in node.outputs if value.name}
        used = {value for values in reads[first:last] for value in values}
        later = {value for values in reads[last:] for value in values}
        outside = [value for value in used - made if not value.is_initializer()]
        ordered = [value for node in nodes[first:last] for value in node.outputs if value.name]
        found.append(
            _Slice(
                first,
                last,
                tuple(sorted(str(value.name) for value in outside)),
                frozenset(str(value.name) for value in used if value.is_initializer()),
                {str(v.name): str(node.name) for node in nodes[first:last] for v in node.outputs if is_float(v)},
                tuple(str(value.name) for value in ordered if value in later and not is_float(value)),
                frozenset(str(value.name) for value in later if not value.is_initializer()),
            )
        )
    return found


def _reads(node: ir.Node) -> set[Any]:
    """Tensors of the main graph that a node reads, those that graphs inside of it capture among them."""
    found = {value for value in node.inputs if value is not None}
    inside = [inner for body in bodies(node) for inner in body.all_nodes()]
    owned = {value for inner in inside for value in inner.outputs}
    for body in bodies(node):
        for graph in (body, *body.subgraphs()):
            owned |= {*graph.inputs, *graph.initializers.values()}
    found |= {value for inner in inside for value in inner.inputs if value is not None}
    return found - owned
