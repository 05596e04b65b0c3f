"""ONNX graphs of standard operators, made ready for passes: every node named, every tensor typed.

What builders let pass in silence is refused here: operators of other domains and opsets that they don't know.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...bundle.errors import EngineFailed, Unsupported

if TYPE_CHECKING:
    import onnx_ir as ir

OLDEST_OPSET, NEWEST_OPSET = 13, 22
"""Of the default domain. Before 13 Softmax flattens and bfloat16 is unknown; TensorRT's parsers document 22 as the last
one, and accept any number."""
STANDARD_DOMAINS = ("", "ai.onnx")


def load_standard(file: Path) -> ir.Model:
    """Read an ONNX file and :func:`standardise` it.

    Raises:
        EngineFailed: it is no ONNX file, or tensors of it can't be typed.
        Unsupported: opset or operators that builders don't know.
    """
    import onnx_ir as ir

    try:
        model = ir.load(str(file))
    except Exception as error:  # noqa: BLE001 - protobuf and onnx_ir raise kinds of their own
        line = (str(error).splitlines() or [""])[0]
        raise EngineFailed(f"graph {file.name} can't be read", found=f"{type(error).__name__}: {line}") from None
    return standardise(model)


def standardise(model: ir.Model) -> ir.Model:
    """Check opset and operators, inline functions, make constants initializers, name nodes, infer missing types.

    Done twice it changes nothing; names given to nameless nodes depend on the graph alone.

    Args:
        model: changed in place.

    Returns:
        The model.

    Raises:
        EngineFailed: tensors that can't be typed.
        Unsupported: opset or operators that builders don't know, or sequences of floats.
    """
    import onnx_ir as ir
    from onnx_ir.passes import common

    _check_opset(model)
    if model.functions:
        model = common.InlinePass()(model).model
    _check_operators(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _name_nodes(model)
    if any(value.dtype is None for value in _values(model)):
        _infer_types(model)
    for value in _values(model):
        if value.dtype is None:
            raise EngineFailed(f"tensor {value.name!r} of the graph has no type", wanted="types that can be inferred")
        if value.dtype is ir.DataType.FLOAT and not isinstance(value.type, ir.TensorType):
            raise Unsupported(f"tensor {value.name!r} of the graph", found=str(value.type), wanted="plain tensors")
    return model


def all_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph first, then the graphs inside of If, Loop and Scan, outer ones before inner ones."""
    yield model.graph
    yield from model.graph.subgraphs()


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """The nodes of all graphs, a node before those of its subgraphs."""
    return iter(model.graph.all_nodes())


def constant_array(value: ir.Value) -> npt.NDArray[np.float32]:
    """The values of a float initializer, as float32.

    Raises:
        EngineFailed: it has none.
    """
    if value.const_value is None:
        raise EngineFailed(f"initializer {value.name!r} of the graph has no values")
    return np.asarray(value.const_value.numpy(), np.float32)


def owner(value: ir.Value) -> ir.Graph:
    """The graph that a tensor belongs to.

    Raises:
        EngineFailed: it belongs to none.
    """
    if value.graph is None:
        raise EngineFailed(f"tensor {value.name!r} belongs to no graph")
    return value.graph


def default_opset(model: ir.Model) -> int:
    """Version of the default domain, 0 where it isn't named."""
    return next((version for domain, version in model.opset_imports.items() if domain in STANDARD_DOMAINS), 0)


def _check_opset(model: ir.Model) -> None:
    opset = default_opset(model)
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise Unsupported(
            "opset of the graph",
            found=opset,
            wanted=f"{OLDEST_OPSET} to {NEWEST_OPSET}",
            mend="export the graph again with one of these",
        )


def _check_operators(model: ir.Model) -> None:
    import onnx

    opset = default_opset(model)
    for node in all_nodes(model):
        known = node.domain in STANDARD_DOMAINS
        if known:
            try:
                onnx.defs.get_schema(node.op_type, opset, "")
            except onnx.defs.SchemaError:
                known = False
        if not known:
            operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise Unsupported(
                f"operator {operator} of node {node.name!r}", wanted=f"standard operators of ONNX opset {opset}"
            )


def _name_nodes(model: ir.Model) -> None:
    taken: set[str] = set()
    nameless: list[Any] = []
    for node in all_nodes(model):
        if not node.name or node.name in taken:
            nameless.append(node)
        else:
            taken.add(node.name)
    for node in nameless:
        # By what it makes: a number would change with every node before it.
        stem = f"{node.op_type}_{next((value.name for value in node.outputs if value.name), '')}"
        name, count = stem, 1
        while name in taken:
            name, count = f"{stem}_{count}", count + 1
        node.name = name
        taken.add(name)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in all_graphs(model):
        yield from graph.inputs
        yield from graph.initializers.values()
    for node in all_nodes(model):
        yield from (value for value in node.outputs if value.name)


def _infer_types(model: ir.Model) -> None:
    from onnx_ir.passes import common

    log = logging.getLogger("onnx_ir.passes.common.shape_inference")
    level = log.level
    log.setLevel(logging.ERROR)  # what stays without a type is reported by name
    try:
        common.ShapeInferencePass(check_type=True, strict_mode=False, data_prop=False)(model)
    finally:
        log.setLevel(level)
