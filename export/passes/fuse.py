"""ONNX Runtime's fused transformer operators, with the count of fused nodes held against the layers."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .attention import fuse_left_attention
from .files import needs_external_data

ATTENTION = ("Attention", "MultiHeadAttention")
NORMALISATION = ("SkipLayerNormalization",)
ACTIVATION = ("Gelu", "BiasGelu", "FastGelu")
EMBEDDING = ("EmbedLayerNormalization",)


@dataclass(frozen=True)
class Fusion:
    """How much of a graph is fused.

    Attributes:
        layers: transformer layers, each with one attention and two normalised residual sums.
        attention: fused attentions.
        normalisation: residual sums fused with their layer normalisation.
        activation: fused Gelu nodes.
        loose_activation: Gelu left in pieces.
        embedding: fused embeddings, 0 or 1; models that compute positions from ids have none.
        fusible: whether there is a fused operator for this kind of attention.
    """

    layers: int
    attention: int
    normalisation: int
    activation: int
    loose_activation: int
    embedding: int
    fusible: bool = True

    @property
    def whole(self) -> bool:
        """Whether nothing that can be fused was left in pieces in any layer."""
        attention = self.attention == self.layers or not self.fusible
        return attention and self.normalisation >= 2 * self.layers and not self.loose_activation

    @property
    def fused_nodes(self) -> int:
        """Fused nodes of all kinds."""
        return self.attention + self.normalisation + self.activation + self.embedding

    def __str__(self) -> str:
        """For manifests and tables, e.g. ``attention 6 of 6, normalisation 12 of 12, Gelu 6 of 6``."""
        return (
            f"attention {self.attention} of {self.layers}{'' if self.fusible else ' (no fused operator knows it)'}, "
            f"normalisation {min(self.normalisation, 2 * self.layers)} of {2 * self.layers}, "
            f"Gelu {self.activation} of {self.activation + self.loose_activation}"
        )


def fuse(file: Path, target: Path, *, layers: int, hidden_size: int, heads: int, fusible: bool = True) -> Fusion:
    """Fuse a graph and write it.

    No approximation is taken: Gelu stays the exact one, and masks stay the 0/1 rows of the request, so that a mask
    with holes counts as it does in PyTorch.

    Args:
        file: fp32 ONNX graph with INT64 inputs.
        target: where the fused graph goes.
        layers: transformer layers.
        hidden_size: width of the residual stream.
        heads: attention heads of a layer.
        fusible: whether there is a fused operator for its attention.

    Returns:
        What was fused; judge by :attr:`Fusion.whole`.
    """
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    options.use_raw_attention_mask(True)
    options.enable_gelu_approximation = False
    with _quiet():
        fused = optimize_model(
            str(file),
            "bert",
            num_heads=heads,
            hidden_size=hidden_size,
            opt_level=0,
            optimization_options=options,
            use_gpu=False,
        )
        fuse_left_attention(fused, heads=heads, head_size=hidden_size // heads)
        _share_weights(fused)
        fused.save_model_to_file(str(target), use_external_data_format=needs_external_data(fused.model))
    return _count(fused.model, layers, fusible)


def _share_weights(model: Any) -> None:
    """One copy of weights that are the same byte for byte: ALBERT's layers have theirs in common, and fusing copies."""
    first: dict[tuple[Any, ...], str] = {}
    for tensor in list(model.model.graph.initializer):
        if not tensor.raw_data:
            continue
        same = (tuple(tensor.dims), tensor.data_type, hashlib.sha256(tensor.raw_data).digest())
        kept = first.setdefault(same, tensor.name)
        if kept != tensor.name:
            model.replace_input_of_all_nodes(tensor.name, kept)
            model.model.graph.initializer.remove(tensor)


def _count(model: Any, layers: int, fusible: bool) -> Fusion:
    counts = Counter(node.op_type for node in model.graph.node)

    def total(names: tuple[str, ...]) -> int:
        return sum(counts[name] for name in names)

    return Fusion(
        layers=layers,
        attention=total(ATTENTION),
        normalisation=total(NORMALISATION),
        activation=total(ACTIVATION),
        loose_activation=counts["Erf"],
        embedding=total(EMBEDDING),
        fusible=fusible,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The optimizer reports each node on its loggers and by print."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(previous)
