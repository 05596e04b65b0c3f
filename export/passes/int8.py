"""Weights of matrix products to int8, activations to int8 on the fly: ONNX Runtime's ``MatMulNBits`` with 8 bits.

Weights get one scale for every 32 values of each output channel. Activations are quantised while running, with a scale
of their own for every 32 values of every token, so that neither the other texts of a batch nor its padding can change a
text's answer, as one scale for the whole tensor does. Embeddings, the head and everything that is no matrix product
stay fp32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...bundle.errors import EngineFailed
from .attention import DOMAIN, split_attention
from .files import save_model

BLOCK = 32
BITS = 8
ZERO = 1 << (BITS - 1)
INT8_ACTIVATIONS = 4
"""``accuracy_level`` of MatMulNBits: compute in int8 where the CPU has the instructions."""
PRODUCTS_PER_LAYER = 4
"""Queries, keys and values together; attention's output; both of the feed-forward pair."""


def quantise(fused: Path, target: Path, *, layers: int, hidden_size: int) -> int:
    """Quantise a fused graph.

    Args:
        fused: fp32 graph with ONNX Runtime's fused operators.
        target: where the int8 graph goes.
        layers: transformer layers.
        hidden_size: width of the residual stream.

    Returns:
        How many matrix products are quantised.

    Raises:
        EngineFailed: fewer than four a layer.
    """
    import onnx

    model = split_attention(onnx.load(str(fused)), hidden_size)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    quantised = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    if len(quantised) < PRODUCTS_PER_LAYER * layers:
        wanted = f"at least {PRODUCTS_PER_LAYER * layers}"
        raise EngineFailed("matrix products found for int8", found=len(quantised), wanted=wanted)
    for node in quantised:
        _quantise_node(node, weights[node.input[1]], model)
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    if not any(item.domain == DOMAIN for item in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    save_model(model, target)
    return len(quantised)


def _quantise_node(node: Any, weight: Any, model: Any) -> None:
    from onnx import helper, numpy_helper

    matrix = numpy_helper.to_array(weight)
    packed, scales = quantise_blocks(matrix)
    names = [f"{weight.name}_int8", f"{weight.name}_scales"]
    tensors = [numpy_helper.from_array(packed, names[0]), numpy_helper.from_array(scales, names[1])]
    model.graph.initializer.extend(tensors)
    replacement = helper.make_node(
        "MatMulNBits",
        [node.input[0], *names],
        list(node.output),
        node.name,
        domain=DOMAIN,
        K=matrix.shape[0],
        N=matrix.shape[1],
        bits=BITS,
        block_size=BLOCK,
        accuracy_level=INT8_ACTIVATIONS,
    )
    node.CopyFrom(replacement)


def quantise_blocks(matrix: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Symmetric blocks along the inner dimension, as ``MatMulNBits`` wants them.

    Args:
        matrix: float32 [inner, outer].

    Returns:
        ``packed`` uint8 [outer, blocks, 32] and ``scales`` float32 [outer, blocks]; a weight is
        (packed - 128) * scale. The last block is filled with zeros.
    """
    inner, outer = matrix.shape
    blocks = -(-inner // BLOCK)
    padded = np.zeros((blocks * BLOCK, outer), dtype=np.float32)
    padded[:inner] = matrix
    values = padded.T.reshape(outer, blocks, BLOCK)
    scales = np.abs(values).max(axis=2) / (ZERO - 1)
    safe = np.where(scales > 0, scales, 1)[..., None]  # a block of zeros has no scale
    packed = np.rint(values / safe) + ZERO
    return packed.astype(np.uint8), scales.astype(np.float32)
