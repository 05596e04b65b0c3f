"""Matrix products in int8: a fixed scale for each output channel of the weights, a fresh one for each token.

The usual dynamic scheme takes one scale for the whole activation tensor, so that the other texts of a batch and its
padding change a text's answer. Here each token is scaled by its own largest value; no neighbour has a say, and the
products run on the same int8 kernels:

    scale[t] = max |x[t]| / 127
    y[t, c]  = scale[t] * weight_scale[c] * sum over k of round(x[t, k] / scale[t]) * weight[k, c]

What an activation function leaves has next to nothing below zero (Gelu at least -0.17), so that half of those steps
would never be taken. There zero lies near the lower end of the 255 steps, and the steps are half as wide.

Without VNNI, x86 adds the products of two neighbouring weights in 16 bits (``vpmaddubsw``), which 255 * 127 * 2
overflows. Where that is so, a channel's scale is as wide as it takes for any two that are added to come to 128 at most,
since 255 * 128 fits. Halving the range of every weight is the usual remedy, and costs more: large weights seldom stand
side by side.

Embeddings, the head and everything that is no matrix product stay fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...bundle.errors import EngineFailed
from .attention import DOMAIN, split_attention
from .files import save_model

PRODUCTS_PER_LAYER = 4
"""Queries, keys and values together; attention's output; both of the feed-forward pair."""
_LARGEST = 127


@dataclass(frozen=True)
class _Steps:
    """How a token's values become uint8: ``value / scale + zero``, rounded.

    Attributes:
        name: of its constants in the graph.
        zero: the step that stands for 0.
        above: steps between 0 and the token's largest value.
        least: the smallest scale: a token of zeros needs one, and values below 0 must not fall below step 0.
        signed: whether the largest value is looked for on both sides of 0.
    """

    name: str
    zero: int
    above: int
    least: float
    signed: bool = False

    def constants(self) -> dict[str, npt.NDArray[np.generic]]:
        """By the names that :func:`_quantised` refers to."""
        return {
            f"{self.name}_per_step": np.array(1 / self.above, np.float32),
            f"{self.name}_least": np.array(self.least, np.float32),
            f"{self.name}_rounding": np.array(self.zero + 0.5, np.float32),  # a cast to uint8 cuts off
            f"{self.name}_zero": np.array(self.zero, np.uint8),
        }


_TINY = 1e-12
_GELU_LEAST = -0.1701
"""Of x * Phi(x), -0.16997 at x = -0.7518, and of its approximation by tanh, -0.17004."""
_GELU_ZERO = 32
_SIGNED = _Steps("int8_signed", 128, 127, _TINY, signed=True)
_GELU = _Steps("int8_gelu", _GELU_ZERO, 255 - _GELU_ZERO, -_GELU_LEAST / _GELU_ZERO)
_RELU = _Steps("int8_relu", 0, 255, _TINY)
_STEPS_AFTER = {"Gelu": _GELU, "BiasGelu": _GELU, "FastGelu": _GELU, "Relu": _RELU}
_ONE = {"int8_one": np.array(1, np.float32)}


def quantise(fused: Path, target: Path, *, layers: int, hidden_size: int, narrow_sums: bool) -> int:
    """Quantise a fused graph.

    Args:
        fused: fp32 graph with ONNX Runtime's fused operators.
        target: where the int8 graph goes.
        layers: transformer layers.
        hidden_size: width of the residual stream.
        narrow_sums: whether the kernels that will run it add two products in 16 bits.

    Returns:
        How many matrix products are quantised.

    Raises:
        EngineFailed: fewer than four a layer.
    """
    import onnx

    model = split_attention(onnx.load(str(fused)), hidden_size)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    quantised: set[str] = set()  # layers may share a weight, as ALBERT's do, and products their states
    nodes: list[Any] = []
    products = 0
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in weights:
            nodes.append(node)
            continue
        states, weight = node.input
        steps = _STEPS_AFTER.get(made_by.get(states, ""), _SIGNED)
        if weight not in quantised:
            _add_quantised(weights[weight], graph, narrow_sums)
        if states not in quantised:
            nodes += _quantised(states, steps)
        quantised |= {weight, states}
        nodes += _product(node, steps)
        products += 1
    if products < PRODUCTS_PER_LAYER * layers:
        raise EngineFailed("matrix products for int8", found=products, wanted=f"{PRODUCTS_PER_LAYER * layers} or more")
    del graph.node[:]
    graph.node.extend(nodes)
    constants = {**_ONE, **_SIGNED.constants(), **_GELU.constants(), **_RELU.constants()}
    graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    save_model(model, target)
    return products


def _add_quantised(weight: Any, graph: Any, narrow_sums: bool) -> None:
    from onnx import numpy_helper

    values, scales = quantise_channels(numpy_helper.to_array(weight), narrow_sums=narrow_sums)
    graph.initializer.append(numpy_helper.from_array(values, f"{weight.name}_int8"))
    graph.initializer.append(numpy_helper.from_array(scales, f"{weight.name}_scale"))


def _quantised(states: str, steps: _Steps) -> list[Any]:
    """The nodes that make ``<states>_int8`` and ``<states>_scale`` of what goes into products."""
    from onnx import TensorProto, helper

    size, peak, raw, scale, levels, shifted, whole = (
        f"{states}_{word}" for word in ("abs", "max", "raw", "scale", "levels", "shifted", "int8")
    )
    own = steps.name
    return [
        *([helper.make_node("Abs", [states], [size])] if steps.signed else []),
        helper.make_node("ReduceMax", [size if steps.signed else states], [peak], axes=[-1], keepdims=1),
        helper.make_node("Mul", [peak, f"{own}_per_step"], [raw]),
        helper.make_node("Max", [raw, f"{own}_least"], [scale]),
        helper.make_node("Div", [states, scale], [levels]),
        helper.make_node("Add", [levels, f"{own}_rounding"], [shifted]),
        helper.make_node("Cast", [shifted], [whole], to=TensorProto.UINT8),
    ]


def _product(node: Any, steps: _Steps) -> list[Any]:
    """The nodes that take the place of one MatMul."""
    from onnx import helper

    (states, weight), result = node.input, node.output[0]
    product = f"{result}_product"
    operands = [f"{states}_int8", f"{weight}_int8", "int8_one", f"{weight}_scale", f"{steps.name}_zero"]
    return [
        helper.make_node("MatMulIntegerToFloat", operands, [product], f"{node.name}_int8", domain=DOMAIN),
        helper.make_node("Mul", [product, f"{states}_scale"], [result]),
    ]


def quantise_channels(
    matrix: npt.NDArray[np.float32], *, narrow_sums: bool
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Symmetric int8 with a scale for each output channel.

    Args:
        matrix: float32 [inner, channels].
        narrow_sums: keep the sum of weights 2 k and 2 k + 1 of a channel between -128 and 128.

    Returns:
        int8 [inner, channels] and float32 [channels]; a weight is their product.
    """
    peaks = np.abs(matrix).max(axis=0)
    if narrow_sums:
        even = np.pad(matrix, ((0, len(matrix) % 2), (0, 0)))
        above, below = np.maximum(even, 0), np.maximum(-even, 0)
        # Rounding can add a half to each of two weights: 127 becomes 128 at most.
        peaks = np.maximum.reduce([peaks, *((side[::2] + side[1::2]).max(axis=0) for side in (above, below))])
    scales = np.maximum(peaks / _LARGEST, np.finfo(np.float32).tiny).astype(np.float32)
    return np.rint(matrix / scales).astype(np.int8), scales
