"""ONNX files on disk: one file where protobuf allows it, external data beside it where not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SINGLE_FILE_LIMIT = 2_000_000_000
"""Bytes; protobuf refuses messages from 2 GiB on."""


def save_model(model: Any, file: Path) -> None:
    """Write a model; weights over the limit go into ``<file>.data`` by a relative path.

    Args:
        model: an ``onnx.ModelProto`` with its weights in memory.
        file: where to; its folder exists.
    """
    import onnx

    external = needs_external_data(model)
    if external:
        onnx.save_model(
            model,
            str(file),
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location=f"{file.name}.data",
            size_threshold=1024,
        )
    else:
        onnx.save_model(model, str(file))


def save_ir(model: Any, file: Path) -> None:
    """:func:`save_model` for a model of onnx_ir, which may read its weights from other files; those stay as they are.

    Args:
        model: an ``onnx_ir.Model``.
        file: where to; its folder exists.
    """
    import onnx_ir as ir

    tensors = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    size = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    if size > SINGLE_FILE_LIMIT:
        ir.save(model, str(file), external_data=f"{file.name}.data")
    else:
        ir.save(ir.external_data.load_to_model(model), str(file))


def needs_external_data(model: Any) -> bool:
    """Whether the weights in memory are too large for a single file."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer) > SINGLE_FILE_LIMIT
