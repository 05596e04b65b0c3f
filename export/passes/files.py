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


def needs_external_data(model: Any) -> bool:
    """Whether the weights in memory are too large for a single file."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer) > SINGLE_FILE_LIMIT
