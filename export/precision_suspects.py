"""Which nodes of an fp32 graph half precision may harm, by the ranges of what they read, make and multiply with."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .passes.constants import Roundings
from .passes.half_types import CONTROL_FLOW, bodies, is_float, touches_float
from .passes.rounding import TYPES, HalfType, Precision, RoundedTensor
from .ranges import RangeTrace

if TYPE_CHECKING:
    import onnx_ir as ir

GAP = 3
"""So many nodes between two suspects are suspects too: a value that fits in fp32 alone must not be half on its way."""
STAGES = (1.0, 1 / 4, 1 / 16, 1 / 64)
"""Severities from which on a node is a suspect, one stage after the other."""
SHARES = (8, 4, 2, 1)
"""Then: the worst eighth of all nodes, a quarter, half of them, all."""
WEIGHT_ERROR = 2.0**-8
"""Relative rounding error of a weight from which on it is as bad as a value at the end of the range; the last bits
alone make 2e-4 in fp16 and 2e-3 in bf16."""
NEAR = 4.0
"""A value within this factor of the end of the range is near it: other texts may go past it."""
_MASKING = ("Add", "Sub", "Where")


@dataclass(frozen=True)
class Suspicion:
    """What half precision does to a node by the trace.

    Attributes:
        node: its name.
        op: its operator.
        severity: 1.0 is the end of the range; more is beyond it.
        why: with the number.
    """

    node: str
    op: str
    severity: float
    why: str


@dataclass(frozen=True)
class Headroom:
    """A tensor near the end of a half type's range.

    Attributes:
        node: the node that makes it.
        tensor: its name.
        absmax: its largest size on the texts that were traced.
        times: the end of the range over that.
    """

    node: str
    tensor: str
    absmax: float
    times: float

    def __str__(self) -> str:
        """A warning for reports."""
        return (
            f"{self.node} makes values up to {self.absmax:.4g} on these texts, {self.times:.1f} x below the end of "
            "the range: others may pass it"
        )


def headroom(
    model: ir.Model, trace: RangeTrace, precision: Precision, *, but: Collection[str] = ()
) -> tuple[Headroom, ...]:
    """The tensors that came within a factor of ``NEAR`` of the end of the range, the nearest first; no masks.

    Args:
        model: the fp32 graph that was traced.
        trace: its ranges.
        precision: the half type.
        but: nodes that stay in fp32.
    """
    largest = TYPES[precision].largest
    masked = {str(value.name) for node in model.graph if _adds_mask(node, trace) for value in node.outputs}
    near = [
        Headroom(item.node, name, item.absmax, largest / item.absmax)
        for name, item in trace.items()
        if item.absmax * NEAR >= largest and not item.from_mask and name not in masked and item.node not in but
    ]
    return tuple(sorted(near, key=lambda item: item.times))


def suspicions(
    model: ir.Model, trace: RangeTrace, precision: Precision, roundings: Roundings | None = None
) -> dict[str, Suspicion]:
    """One for each fp32 node of the main graph, in its order; nothing of it is measured in half.

    Args:
        model: the fp32 graph that was traced.
        trace: its ranges.
        precision: the half type.
        roundings: remembers rounded constants.
    """
    half = TYPES[precision]
    roundings = roundings or Roundings()
    worth = {name: _tensor_severity(name, model, trace, half) for name in trace}
    producers = {str(value.name): node for node in model.graph for value in node.outputs}
    for name, node in producers.items():
        if name in worth and trace[name].overflows == 0 and _adds_mask(node, trace):
            # -32,000 in masked places alone: what counts is what the mask is added to.
            worth[name] = (0.0, "")
    found = {}
    for node in model.graph:
        if not touches_float(node):
            continue
        reasons = [(severity, f"makes {text}") for severity, text in _of(node.outputs, worth)]
        reasons += [(severity, f"reads {text}") for severity, text in _of(node.inputs, worth)]
        reasons += [_constant_severity(node, value, trace, precision, roundings) for value in _constants(node)]
        severity, why = max(reasons, default=(0.0, ""))
        found[str(node.name)] = Suspicion(str(node.name), node.op_type, severity, why)
    return found


def stages(model: ir.Model, found: dict[str, Suspicion]) -> Iterable[tuple[str, ...]]:
    """Sets of node names to keep in fp32, each wider than the one before; the last one is the whole graph."""
    last: tuple[str, ...] = ()
    ranked = sorted(found.values(), key=lambda item: -item.severity)
    for limit in STAGES:
        names = {name for name, item in found.items() if item.severity >= limit}
        together = _with_between(model, names)
        if together and together != last and len(together) <= len(found) // 2:
            last = together
            yield together
    for share in SHARES:
        wide = _with_between(model, {item.node for item in ranked[: max(1, len(ranked) // share)]})
        if len(wide) > len(last):
            last = wide
            yield wide


def _tensor_severity(name: str, model: ir.Model, trace: RangeTrace, half: HalfType) -> tuple[float, str]:
    item = trace[name]
    size = item.absmax
    if item.from_mask or size == 0:
        return 0.0, ""
    if half.normal / size > size / half.largest:
        share = item.underflows / item.elements
        return half.normal / size, (
            f"values of at most {size:.2g} ({half.onnx} has all its bits from {half.normal:.1g} on), "
            f"{share:.0%} of them become zero"
        )
    over = f", {item.overflows} of {item.elements} become infinite" if item.overflows else ""
    return size / half.overflowing, f"values up to {size:.4g} ({half.onnx} ends at {half.largest:.5g}){over}"


def _adds_mask(node: ir.Node, trace: RangeTrace) -> bool:
    return node.op_type in _MASKING and any(
        value is not None and str(value.name) in trace and trace[str(value.name)].from_mask for value in node.inputs
    )


def _of(values: Sequence[Any], worth: dict[str, tuple[float, str]]) -> list[tuple[float, str]]:
    return [worth[value.name] for value in values if value is not None and value.name in worth]


def _constants(node: ir.Node) -> list[Any]:
    return [value for value in node.inputs if is_float(value) and value.is_initializer()]


def _constant_severity(
    node: ir.Node, value: ir.Value, trace: RangeTrace, precision: Precision, roundings: Roundings
) -> tuple[float, str]:
    _, lost = roundings.rounded(value, precision)
    if lost.clamped:
        return _clamped_severity(node, value, lost, trace, precision)
    if lost.elements == 1 and node.op_type in _MASKING:
        # An epsilon that vanishes beside what it is added to is missed by nobody.
        made = next((trace[str(out.name)].absmax for out in node.outputs if str(out.name) in trace), 0.0)
        if lost.largest < made * 2.0**-11:
            return 0.0, ""
    return lost.error / WEIGHT_ERROR, (
        f"constant {lost.name} of at most {lost.largest:.2g} loses {lost.error:.2%} in half, "
        f"{lost.underflowed} of {lost.elements} values become zero"
    )


def _clamped_severity(
    node: ir.Node, value: ir.Value, lost: RoundedTensor, trace: RangeTrace, precision: Precision
) -> tuple[float, str]:
    made = [trace[str(out.name)] for out in node.outputs if str(out.name) in trace]
    if node.op_type in ("Clip", "Max", "Min", *_MASKING) or all(item.from_mask for item in made):
        return 0.0, ""  # a bound, or a mask
    severity = lost.largest / TYPES[precision].largest
    return severity, f"constant {lost.name} holds {lost.largest:.3g} and {lost.clamped} of {lost.elements} are clamped"


def _with_between(model: ir.Model, names: set[str]) -> tuple[str, ...]:
    """The nodes, those on a short way from one to another, and what is inside of those that are If or Loop."""
    nodes = [node for node in model.graph if str(node.name) in names]
    down, up = _distances(nodes, forward=True), _distances(nodes, forward=False)
    wide = set(names)
    wide |= {str(node.name) for node in down if node in up and down[node] + up[node] <= GAP + 1}
    kept = []
    for node in model.graph:
        if str(node.name) in wide and touches_float(node):
            kept.append(str(node.name))
            if node.op_type in CONTROL_FLOW:
                inside = (inner for body in bodies(node) for inner in body.all_nodes())
                kept += [str(inner.name) for inner in inside if touches_float(inner)]
    return tuple(kept)


def _distances(starts: Sequence[ir.Node], *, forward: bool) -> dict[ir.Node, int]:
    """Steps from the nearest of the nodes along fp32 tensors, as far as the gap allows."""
    found: dict[Any, int] = {}
    queue = deque((node, 0) for node in starts)
    while queue:
        node, steps = queue.popleft()
        if steps > GAP:
            continue
        if forward:
            near = [use.node for value in node.outputs if is_float(value) for use in value.uses()]
        else:
            makers = [value.producer() for value in node.inputs if is_float(value)]
            near = [maker for maker in makers if maker is not None]
        for other in near:
            if other not in found:
                found[other] = steps + 1
                queue.append((other, steps + 1))
    return found
