"""Matrix products in int8: a fixed scale for each output channel of the weights, a fresh one for each token.

The usual dynamic scheme takes one scale for the whole activation tensor, so that the other texts of a batch and its
padding change a text's answer. Here each token is scaled by its own largest value; no neighbour has a say, and the
products run on the same int8 kernels:

    scale[t] = max |x[t]| / 127
    y[t, c]  = scale[t] * weight_scale[c] * sum over k of round(x[t, k] / scale[t]) * weight[k, c]

Embeddings, the head and everything that is no matrix product stay fp32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...bundle.errors import EngineFailed
from .attention import DOMAIN, split_attention
from .files import save_model

PRODUCTS_PER_LAYER = 4
"""Queries, keys and values together; attention's output; both of the feed-forward pair."""
FULL_RANGE, REDUCED_RANGE = 127, 63
"""Largest quantised weight. Without VNNI, x86 adds two products in 16 bits, which 255 * 127 * 2 overflows."""
_LEVELS = 127
_ZERO = 128
_CONSTANTS: dict[str, npt.NDArray[np.generic]] = {
    "int8_per_level": np.array(1 / _LEVELS, np.float32),
    "int8_tiny": np.array(1e-12, np.float32),  # a token of zeros has no scale
    "int8_rounding": np.array(_ZERO + 0.5, np.float32),  # a cast to uint8 cuts off
    "int8_zero": np.array(_ZERO, np.uint8),
    "int8_one": np.array(1, np.float32),
}


def quantise(fused: Path, target: Path, *, layers: int, hidden_size: int, largest: int = FULL_RANGE) -> int:
    """Quantise a fused graph.

    Args:
        fused: fp32 graph with ONNX Runtime's fused operators.
        target: where the int8 graph goes.
        layers: transformer layers.
        hidden_size: width of the residual stream.
        largest: largest quantised weight, ``FULL_RANGE`` or ``REDUCED_RANGE``.

    Returns:
        How many matrix products are quantised.

    Raises:
        EngineFailed: fewer than four a layer.
    """
    import onnx

    model = split_attention(onnx.load(str(fused)), hidden_size)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    quantised: set[str] = set()  # layers may share a weight, as ALBERT's do
    nodes: list[Any] = []
    products = 0
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            weight = weights[node.input[1]]
            if weight.name not in quantised:
                quantised.add(weight.name)
                _add_quantised(weight, graph, largest)
            nodes += _product(node, weight.name)
            products += 1
        else:
            nodes.append(node)
    if products < PRODUCTS_PER_LAYER * layers:
        raise EngineFailed("matrix products for int8", found=products, wanted=f"{PRODUCTS_PER_LAYER * layers} or more")
    graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in _CONSTANTS.items())
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    save_model(model, target)
    return products


def _add_quantised(weight: Any, graph: Any, largest: int) -> None:
    from onnx import numpy_helper

    values, scales = quantise_channels(numpy_helper.to_array(weight), largest)
    graph.initializer.append(numpy_helper.from_array(values, f"{weight.name}_int8"))
    graph.initializer.append(numpy_helper.from_array(scales, f"{weight.name}_scale"))


def _product(node: Any, weight: str) -> list[Any]:
    """The nodes that take the place of one MatMul."""
    from onnx import TensorProto, helper

    states, result = node.input[0], node.output[0]
    step = [f"{result}_{word}" for word in ("abs", "max", "raw", "scale", "levels", "shifted", "int8", "product")]
    size, peak, raw, scale, levels, shifted, whole, product = step
    operands = [whole, f"{weight}_int8", "int8_one", f"{weight}_scale", "int8_zero"]
    return [
        helper.make_node("Abs", [states], [size]),
        helper.make_node("ReduceMax", [size], [peak], axes=[-1], keepdims=1),
        helper.make_node("Mul", [peak, "int8_per_level"], [raw]),
        helper.make_node("Add", [raw, "int8_tiny"], [scale]),
        helper.make_node("Div", [states, scale], [levels]),
        helper.make_node("Add", [levels, "int8_rounding"], [shifted]),
        helper.make_node("Cast", [shifted], [whole], to=TensorProto.UINT8),
        helper.make_node("MatMulIntegerToFloat", operands, [product], f"{node.name}_int8", domain=DOMAIN),
        helper.make_node("Mul", [product, scale], [result]),
    ]


def quantise_channels(
    matrix: npt.NDArray[np.float32], largest: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Symmetric int8 with a scale for each output channel.

    Args:
        matrix: float32 [inner, channels].
        largest: largest quantised value.

    Returns:
        int8 [inner, channels] and float32 [channels]; a weight is their product.
    """
    scales = np.maximum(np.abs(matrix).max(axis=0) / largest, np.finfo(np.float32).tiny).astype(np.float32)
    return np.rint(matrix / scales).astype(np.int8), scales
