"""Damage that half precision does and fp32 doesn't, built into a graph of a BERT classifier.

Each function changes a standardised fp32 graph in place and returns the names of the guilty nodes. Scales are powers of
two, so that in fp32 what is scaled and scaled back is exactly what it was.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from nlpdeploy.export.passes.standard import standardise


def overflowing_values(model: ir.Model, *, layer: int = 2, scale: float = 2.0**14) -> set[str]:
    """Attention's values leave the range; its output projection brings them back. The function is exactly preserved."""
    add = _biased(model, f"layer.{layer}.attention.self.value.bias")
    first, last = _product(add), _product(_biased(model, f"layer.{layer}.attention.output.dense.bias"))
    _scale(model, first.inputs[1], scale)
    _scale(model, _bias(add), scale)
    _scale(model, last.inputs[1], 1 / scale)
    path, node = [first, add], add
    while node is not last:
        node = next(use.node for use in node.outputs[0].uses())
        path.append(node)
    return {str(node.name) for node in path}


def overflowing_feed_forward(model: ir.Model, *, layer: int = 2, scale: float = 2.0**18) -> set[str]:
    """The wide activations leave the range; the second product brings them back. Gelu makes it another function."""
    add = _biased(model, f"layer.{layer}.intermediate.dense.bias")
    first, last = _product(add), _product(_biased(model, f"layer.{layer}.output.dense.bias"))
    _scale(model, first.inputs[1], scale)
    _scale(model, _bias(add), scale)
    _scale(model, last.inputs[1], 1 / scale)
    gelu = next(use.node for use in add.outputs[0].uses())
    return {str(node.name) for node in (first, add, gelu, last)}


def overflowing_variance(model: ir.Model, *, scale: float = 2.0**12) -> set[str]:
    """The embeddings' normalisation in single steps, as before opset 17, on larger embeddings.

    The variance overflows, the division by infinity makes zeros: finite, and wrong.
    """
    for part in ("word", "position", "token_type"):
        _scale(model, model.graph.initializers[f"model.bert.embeddings.{part}_embeddings.weight"], scale)
    norm = next(use.node for use in model.graph.initializers["model.bert.embeddings.LayerNorm.bias"].uses())
    states, weight, bias = norm.inputs
    axes = _constant(model, "last_axis", np.array([-1], np.int64))
    two, tiny = _constant(model, "two", np.float32(2)), _constant(model, "tiny", np.float32(1e-12))
    mean = ir.node("ReduceMean", [states, axes], name="chain_mean")
    centred = ir.node("Sub", [states, mean.outputs[0]], name="chain_sub")
    squared = ir.node("Pow", [centred.outputs[0], two], name="chain_pow")
    variance = ir.node("ReduceMean", [squared.outputs[0], axes], name="chain_variance")
    padded = ir.node("Add", [variance.outputs[0], tiny], name="chain_add")
    root = ir.node("Sqrt", [padded.outputs[0]], name="chain_sqrt")
    ratio = ir.node("Div", [centred.outputs[0], root.outputs[0]], name="chain_div")
    scaled = ir.node("Mul", [ratio.outputs[0], weight], name="chain_mul")
    result = ir.node("Add", [scaled.outputs[0], bias], name="chain_bias")
    chain = [mean, centred, squared, variance, padded, root, ratio, scaled, result]
    _replace(model, norm, chain)
    return {"chain_pow", "chain_variance", "chain_add", "chain_sqrt"}


def vanishing_vectors(model: ir.Model, *, scale: float = 2.0**-13) -> set[str]:
    """The pooled vectors made so small that half has only zeros for them, and large again before the head."""
    tanh = next(node for node in model.graph if node.op_type == "Tanh")
    (head,) = (use.node for use in tanh.outputs[0].uses())
    down, up = _constant(model, "down", np.float32(scale)), _constant(model, "up", np.float32(1 / scale))
    value, added = tanh.outputs[0], []
    for name, factor in (("down_1", down), ("down_2", down), ("up_1", up), ("up_2", up)):
        node = ir.node("Mul", [value, factor], name=name)
        value = node.outputs[0]
        value.name, value.type, value.shape = f"{name}_out", tanh.outputs[0].type, tanh.outputs[0].shape
        added.append(node)
    model.graph.insert_after(tanh, added)
    head.replace_input_with(0, value)
    return {"down_2", "up_1"}


def _biased(model: ir.Model, bias: str) -> Any:
    (name,) = (name for name in model.graph.initializers if name.endswith(bias))
    (use,) = model.graph.initializers[name].uses()
    return use.node


def _product(add: Any) -> Any:
    node = next(value.producer() for value in add.inputs if value.producer() is not None)
    assert node.op_type == "MatMul"
    return node


def _bias(add: Any) -> Any:
    return next(value for value in add.inputs if value.is_initializer())


def _scale(model: ir.Model, value: Any, factor: float) -> None:
    array = np.asarray(value.const_value.numpy(), np.float32) * np.float32(factor)
    value.const_value = ir.Tensor(array, name=value.name)


def _constant(model: ir.Model, name: str, array: Any) -> Any:
    value = ir.Value(name=name, const_value=ir.tensor(np.asarray(array), name=name))
    value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape(list(np.shape(array)))
    model.graph.register_initializer(value)
    return value


def _replace(model: ir.Model, old: Any, chain: list[Any]) -> None:
    for node in chain:
        node.outputs[0].name = f"{node.name}_out"
    model.graph.insert_before(old, chain)
    old.outputs[0].replace_all_uses_with(chain[-1].outputs[0])
    model.graph.remove(old, safe=True)
    standardise(model)
