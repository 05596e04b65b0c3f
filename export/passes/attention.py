"""Two rewrites around ONNX Runtime's fused attention operators, both exact.

Operators: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md (Attention, MultiHeadAttention).
"""

from __future__ import annotations

import math
from typing import Any

DOMAIN = "com.microsoft"


def fuse_biased_attention(model: Any, *, heads: int, head_size: int) -> None:
    """Fuse attention whose scores get a position bias before the mask, as MPNet's; the optimizer knows no such one.

    softmax(q k' / sqrt(head size) + bias + mask) v becomes one ``MultiHeadAttention`` with bias + mask as its
    ``attention_bias``. What doesn't look exactly so is left as it is.

    Args:
        model: ONNX Runtime's ``OnnxModel`` around the graph; changed in place.
        heads: attention heads.
        head_size: width of a head.
    """
    from onnx import helper

    made = model.output_name_to_node()
    biases: dict[tuple[str, str], str] = {}
    for softmax in model.get_nodes_by_op_type("Softmax"):
        found = _match(model, made, softmax, head_size)
        if found is None:
            continue
        query, key, value, bias, mask, output = found
        if (bias, mask) not in biases:
            biases[bias, mask] = f"attention_bias_{len(biases)}"
            model.add_node(helper.make_node("Add", [bias, mask], [biases[bias, mask]], f"AttentionBias_{len(biases)}"))
        fused = helper.make_node(
            "MultiHeadAttention",
            [query, key, value, "", "", biases[bias, mask]],
            list(output.output),
            f"{softmax.name}_fused",
            domain=DOMAIN,
            num_heads=heads,
        )
        model.remove_node(output)
        model.add_node(fused)
    if biases:
        model.prune_graph()


def _match(model: Any, made: dict[str, Any], softmax: Any, head_size: int) -> tuple[Any, ...] | None:
    """(query, key, value, bias, mask, last node) of softmax's attention, the first three [rows, length, hidden]."""

    def parents(node: Any, *kinds: str) -> Any:
        for kind in kinds:
            node = made.get(node.input[0])
            if node is None or node.op_type != kind:
                return None
        return node

    masked = parents(softmax, "Add")
    biased = masked and parents(masked, "Add")
    scaled = biased and parents(biased, "Div")
    product = scaled and parents(scaled, "MatMul")
    if not product:
        return None
    divisor = model.get_constant_value(scaled.input[1])
    if divisor is None or not math.isclose(float(divisor), math.sqrt(head_size), rel_tol=1e-6):
        return None
    after = _following(model, softmax, "MatMul", "Transpose", "Reshape")
    if after is None:
        return None
    sides = [product.input[0], product.input[1], after[0].input[1]]
    states = [_split_heads_input(made, side) for side in sides]
    if None in states:
        return None
    return (*states, biased.input[1], masked.input[1], after[-1])


def _split_heads_input(made: dict[str, Any], name: str) -> str | None:
    """The [rows, length, hidden] tensor whose heads were split by a Reshape and a Transpose."""
    transpose = made.get(name)
    reshape = made.get(transpose.input[0]) if transpose is not None and transpose.op_type == "Transpose" else None
    return str(reshape.input[0]) if reshape is not None and reshape.op_type == "Reshape" else None


def _following(model: Any, node: Any, *kinds: str) -> list[Any] | None:
    """The chain of only children of those kinds."""
    chain = []
    users = model.input_name_to_nodes()
    for kind in kinds:
        children = users.get(node.output[0], [])
        if len(children) != 1 or children[0].op_type != kind:
            return None
        node = children[0]
        chain.append(node)
    return chain


def split_attention(model: Any, hidden_size: int) -> Any:
    """Take the projection of queries, keys and values out of ``Attention``, so that it can be quantised by itself.

    Args:
        model: an ``onnx.ModelProto``; changed in place.
        hidden_size: width of queries, keys and values each.

    Returns:
        The model: ``MatMul``, ``Split`` and ``MultiHeadAttention`` instead of each ``Attention``.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    nodes, sizes = [], "qkv_sizes"
    for node in model.graph.node:
        if node.op_type != "Attention":
            nodes.append(node)
            continue
        states, weight, bias, mask = node.input[:4]
        heads = next(attribute.i for attribute in node.attribute if attribute.name == "num_heads")
        out = node.output[0]
        parts = [f"{out}_{part}" for part in ("query", "key", "value")]
        nodes += [
            helper.make_node("MatMul", [states, weight], [f"{out}_qkv"], f"{node.name}_qkv"),
            helper.make_node("Split", [f"{out}_qkv", sizes], parts, f"{node.name}_split", axis=2),
            helper.make_node(
                "MultiHeadAttention", [*parts, bias, mask], [out], node.name, domain=DOMAIN, num_heads=heads
            ),
        ]
    if len(nodes) > len(model.graph.node):
        model.graph.initializer.append(numpy_helper.from_array(np.full(3, hidden_size, np.int64), sizes))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model
