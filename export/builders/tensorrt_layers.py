"""What a TensorRT build says of its kernels, and whether they compute in the precision that was asked for.

The detailed table is the build's own: a line a kernel with the types of its tensors and the ONNX nodes it came from. It
needs no GPU. A precision that is only asked for proves nothing; the types of the matrix products do.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ...bundle.errors import EngineFailed

TABLE = "Layers:\n"
"""How the build's message with the table begins."""
MATRIX_KINDS = ("gemm", "runtime_fusion", "convolution")
"""Kernels that multiply matrices: nearly all of an encoder's arithmetic, and what tensor cores are for."""
WIDEST_SHARE = 0.6
"""Most of the fp32 weights' size that half weights may take where no node stays in fp32."""
SLACK = 1.1
ALIGNMENT_BYTES = 1 << 20
"""What constants of a few bytes may take beyond their size, all together."""
_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: (?P<inputs>\[.*?\]), Constants: (?P<constants>\[.*?\]), "
    r"Outputs: (?P<outputs>\[.*?\]), TacticName: (?P<tactic>.*?), StreamId: \d+(?:, EventId: \d+)?, "
    r"Metadata: (?P<metadata>.*)$"
)
_TYPE = re.compile(r"Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


@dataclass(frozen=True)
class Kernel:
    """One line of the table.

    Attributes:
        name: the kernel's.
        kind: e.g. ``gemm``, ``kgen`` (generated), ``shape_call``.
        reads: datatypes of what it reads from other kernels (``Half``, ``Float``, ``Int64``, ``Bool``). Constants are
            left out: a product's scale factors are Float whatever it computes in.
        gives: datatypes of its outputs.
        nodes: names of the ONNX nodes in it.
    """

    name: str
    kind: str
    reads: frozenset[str]
    gives: frozenset[str]
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class LayerEvidence:
    """What the table says in short.

    Attributes:
        kernels: lines of the table.
        products: matrix kernels by the widest float type that they touch, e.g. ``{"Half": 24}``.
        kept: of these, Float kernels whose nodes were to stay in fp32.
        widened: of these, Half kernels that give Float, as a Cast of the graph is fused to their end.
        weights_bytes: as the build counted them.
        share: of the fp32 graph's weights.
    """

    kernels: int
    products: dict[str, int]
    kept: int
    widened: int
    weights_bytes: int
    share: float

    def __str__(self) -> str:
        """For tables: ``58 kernels, matrix products: 24 Half (0 kept in fp32), weights 45.5 MB, 0.50 of fp32's``."""
        products = ", ".join(f"{count} {kind}" for kind, count in sorted(self.products.items())) or "none"
        return (
            f"{self.kernels} kernels, matrix products: {products} ({self.kept} kept in fp32), "
            f"weights {self.weights_bytes / 1e6:.1f} MB, {self.share:.2f} of fp32's"
        )


def read_layers(table: str) -> tuple[Kernel, ...]:
    """The kernels of a table, in its order.

    Args:
        table: the build's message, from ``Layers:`` on.

    Raises:
        EngineFailed: no kernels in it, or a line that can't be read.
    """
    kernels = []
    for line in table.removeprefix(TABLE).splitlines():
        if not line.startswith("Name: "):
            continue
        found = _LINE.match(_without_nested(line))
        if found is None:
            raise EngineFailed("a line of the build's layer table can't be read", found=line[:120])
        reads, gives = (frozenset(_TYPE.findall(found[name])) for name in ("inputs", "outputs"))
        nodes = tuple(_NODE.findall(found["metadata"]))
        kernels.append(Kernel(found["name"], found["kind"], reads, gives, nodes))
    if not kernels:
        raise EngineFailed("the build gave no layer table", wanted="one with the types of all kernels")
    return tuple(kernels)


def prove_precision(
    kernels: Sequence[Kernel],
    *,
    precision: str,
    kept: Collection[str],
    widening: Collection[str],
    weights_bytes: int,
    graph_bytes: int,
    fp32_bytes: int,
) -> LayerEvidence:
    """See that the matrix products compute in the precision asked for, and that the weights have its size.

    Args:
        kernels: of the build.
        precision: ``fp16`` or ``fp32``.
        kept: ONNX nodes that are fp32 in the graph of the build.
        widening: its Cast nodes from half to fp32. One that is fused to a product's end lets the product's own halves
            out as fp32.
        weights_bytes: weights of the engine; 0 where the build didn't say.
        graph_bytes: weights of the graph that was built.
        fp32_bytes: weights of the fp32 graph.

    Raises:
        EngineFailed: some are not, with the numbers and the first kernel's nodes.
    """
    wanted, other = ("Half", "Float") if precision == "fp16" else ("Float", "Half")
    floats = {"Half", "Float"}
    products = [kernel for kernel in kernels if kernel.kind in MATRIX_KINDS and (kernel.reads | kernel.gives) & floats]
    odd = [kernel for kernel in products if other in kernel.reads | kernel.gives]
    half = precision == "fp16"
    widened = [k for k in odd if half and "Float" not in k.reads and set(k.nodes) & set(widening)]
    allowed = [k for k in odd if half and k not in widened and set(k.nodes) & set(kept)]
    wrong = [k for k in odd if k not in allowed and k not in widened]
    counts = {wanted: len(products) - len(odd) + len(widened), other: len(odd) - len(widened)}
    share = weights_bytes / max(1, fp32_bytes)
    evidence = LayerEvidence(
        kernels=len(kernels),
        products={kind: count for kind, count in counts.items() if count},
        kept=len(allowed),
        widened=len(widened),
        weights_bytes=weights_bytes,
        share=share,
    )
    if wrong:
        first = ", ".join(wrong[0].nodes) or wrong[0].name
        raise EngineFailed(
            f"the engine does not compute in {precision}",
            found=f"{len(wrong)} of {len(products)} matrix products in {other}, the first: {first} ({evidence})",
            wanted=f"all in {wanted}" + (f" but those of {len(kept)} nodes kept in fp32" if kept else ""),
        )
    widest = max(WIDEST_SHARE, SLACK * graph_bytes / max(1, fp32_bytes)) if precision == "fp16" else SLACK
    heavy = weights_bytes > widest * fp32_bytes + ALIGNMENT_BYTES
    if heavy or (precision == "fp32" and weights_bytes < fp32_bytes / SLACK - ALIGNMENT_BYTES):
        raise EngineFailed(
            f"the engine's weights are not of {precision}'s size",
            found=f"{weights_bytes / 1e6:.1f} MB, {share:.2f} of the fp32 graph's {fp32_bytes / 1e6:.1f} MB",
            wanted=f"at most {widest:.2f}" if heavy else "about the same",
        )
    return evidence


def _without_nested(line: str) -> str:
    """The line with the brackets inside of tensor descriptions made round, so that lists end at their own bracket."""
    head, mark, metadata = line.partition(", Metadata: ")
    head = re.sub(r"(Dimensions|Strides|StrideOrder|stride order =):? ?\[([^\]]*)\]", r"\1 (\2)", head)
    head = re.sub(r"stride order = \[([^\]]*)\]", r"stride order (\1)", head)
    return head + mark + metadata
