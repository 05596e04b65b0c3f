"""What the search for nodes that need fp32 found: for manifests, terminals and reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..bundle.evidence import ParityResult
from .emulate import LIMITS
from .passes.rounding import Precision
from .precision_suspects import Headroom

_LISTED = 5
"""Tensors near the end of the range that are printed; all of them stand in the evidence."""


@dataclass(frozen=True)
class KeptNode:
    """A node that stays in fp32.

    Attributes:
        name: of the ONNX node.
        op: its operator.
        range: what the trace says of it, with the number.
        without: why parity fails when it becomes half; None where the evaluations ended before it was tried alone.
    """

    name: str
    op: str
    range: str
    without: str | None

    def __str__(self) -> str:
        """A line for reports."""
        alone = f"without it: {self.without}" if self.without else "not tried alone"
        return f"  {self.name} ({self.op}) {self.range}; {alone}"


@dataclass(frozen=True)
class PrecisionChoice:
    """The nodes that stay in fp32, and what was found on the way.

    Attributes:
        precision: ``fp16`` or ``bf16``.
        kept: the nodes, in the graph's order; empty where half alone passes.
        nodes: nodes of the graph that compute on floats.
        half_alone: why half alone doesn't pass; None where it does.
        evaluations: emulated graphs that were held against the checkpoint.
        minimal: each of the nodes was tried and can't be spared.
        parity: emulated, over everything that engines are asked.
        conversion: what became of the graph, in words.
        narrow: tensors of half nodes that came near the end of the range on the sample, the nearest first.
    """

    precision: Precision
    kept: tuple[KeptNode, ...]
    nodes: int
    half_alone: str | None
    evaluations: int
    minimal: bool
    parity: ParityResult
    conversion: str
    narrow: tuple[Headroom, ...] = ()

    @property
    def keep_fp32(self) -> tuple[str, ...]:
        """The names, for ``passes.half.to_half``."""
        return tuple(node.name for node in self.kept)

    def to_plain(self) -> dict[str, Any]:
        """For the manifest: plain data, the parity in short."""
        parity = self.parity
        return {
            "precision": self.precision,
            "conversion": self.conversion,
            "keep_fp32": [
                {"node": node.name, "op": node.op, "range": node.range, "without": node.without} for node in self.kept
            ],
            "nodes": self.nodes,
            "half_alone": self.half_alone,
            "evaluations": self.evaluations,
            "minimal": self.minimal,
            "headroom": [
                {"node": near.node, "tensor": near.tensor, "absmax": near.absmax, "times": near.times}
                for near in self.narrow
            ],
            "emulated": {
                "passed": parity.passed,
                "max_abs_error": parity.max_abs_error,
                "tolerance": parity.tolerance,
                "agreement": parity.agreement,
                "rows": parity.rows,
            },
            "limits": LIMITS,
        }

    def lines(self) -> tuple[str, ...]:
        """For terminals and reports: a sentence, then a line a node; then what comes near the end of the range."""
        near = tuple(f"  {item}" for item in self.narrow[:_LISTED])
        if not self.kept:
            return (f"{self.precision}: no node needs fp32 ({self.evaluations} evaluations, emulated)", *near)
        share = len(self.kept) / self.nodes
        head = (
            f"{self.precision}: {len(self.kept)} of {self.nodes} nodes ({share:.1%}) stay fp32, "
            f"{self.evaluations} evaluations, emulated; all in {self.precision}: {self.half_alone}"
        )
        return (head, *(str(node) for node in self.kept), *near)
