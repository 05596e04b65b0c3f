"""Two rewrites around ONNX Runtime's fused attention operators, both exact.

Operators: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md (Attention, MultiHeadAttention).
"""

from __future__ import annotations

import math
from typing import Any

DOMAIN = "com.microsoft"


def fuse_left_attention(model: Any, *, heads: int, head_size: int) -> None:
    """Fuse what the optimizer leaves: scores that get a position bias before the mask, as MPNet's, and attention behind
    something else than a layer normalisation, as the first of ALBERT, which follows a projection.

    softmax(q k' / sqrt(head size) [+ bias] + mask) v becomes one ``MultiHeadAttention`` with what is added as its
    ``attention_bias``. What doesn't look exactly so is left as it is.

    Args:
        model: ONNX Runtime's ``OnnxModel`` around the graph; changed in place.
        heads: attention heads.
        head_size: width of a head.
    """
    from onnx import helper

    made = model.output_name_to_node()
    sums: dict[tuple[str, ...], str] = {}
    for softmax in model.get_nodes_by_op_type("Softmax"):
        found = _match(model, made, softmax, head_size)
        if found is None:
            continue
        states, added, output = found
        if added not in sums:
            sums[added] = added[0] if len(added) == 1 else f"attention_bias_{len(sums)}"
            if len(added) > 1:
                model.add_node(helper.make_node("Add", list(added), [sums[added]], f"AttentionBias_{len(sums) - 1}"))
        fused = helper.make_node(
            "MultiHeadAttention",
            [*states, "", "", sums[added]],
            list(output.output),
            f"{softmax.name}_fused",
            domain=DOMAIN,
            num_heads=heads,
        )
        model.remove_node(output)
        model.add_node(fused)
    if sums:
        model.prune_graph()


def _match(model: Any, made: dict[str, Any], softmax: Any, head_size: int) -> tuple[Any, ...] | None:
    """Softmax's attention: (query, key, value) [rows, length, hidden], what is added to the scores, the last node."""
    masked = made.get(softmax.input[0])
    if masked is None or masked.op_type != "Add":
        return None
    added, scaled = [masked.input[1]], made.get(masked.input[0])
    if scaled is not None and scaled.op_type == "Add":
        added, scaled = [scaled.input[1], *added], made.get(scaled.input[0])
    product = _scaled_product(model, made, scaled, head_size)
    after = _following(model, softmax, "MatMul", "Transpose", "Reshape")
    if product is None or after is None:
        return None
    sides = [product.input[0], product.input[1], after[0].input[1]]
    states = [_split_heads_input(made, side) for side in sides]
    if None in states:
        return None
    return tuple(states), tuple(added), after[-1]


def _scaled_product(model: Any, made: dict[str, Any], scaled: Any, head_size: int) -> Any:
    """The MatMul of queries and keys that is divided by sqrt(head size), or multiplied by its inverse."""
    if scaled is None or scaled.op_type not in ("Div", "Mul"):
        return None
    product, factor = made.get(scaled.input[0]), model.get_constant_value(scaled.input[1])
    if product is None or product.op_type != "MatMul" or factor is None or getattr(factor, "size", 1) != 1:
        return None
    divisor = float(factor) if scaled.op_type == "Div" else 1 / float(factor)
    return product if math.isclose(divisor, math.sqrt(head_size), rel_tol=1e-6) else None


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
