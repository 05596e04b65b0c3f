"""The engines that can be built, in the order of the table. Imports no runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ...bundle.manifest import EngineEntry
from ...bundle.specs import Layout
from ...runtime.text import Row
from ..graph import Graph
from .onnx import OnnxFp32, OnnxInt8
from .openvino import OpenVINOBuilder
from .openvino_packed import PackedBuilder


class Builder(Protocol):
    """Makes one engine."""

    @property
    def id(self) -> str:
        """The engine's id, e.g. ``onnx-int8``."""
        ...

    @property
    def runtime(self) -> str:
        """Name in ``runtime/catalogue``."""
        ...

    @property
    def precision(self) -> str:
        """``fp32``, ``bf16``, ``fp16`` or ``int8``."""
        ...

    @property
    def layout(self) -> Layout:
        """How the engine wants its rows."""
        ...

    def unavailable(self) -> str | None:
        """Why it can't be built on this machine and what to install; None if it can."""
        ...

    def build(self, graph: Graph, bundle: Path, calibration: Sequence[Row]) -> EngineEntry:
        """Write the engine's files.

        Args:
            graph: the fp32 graph.
            bundle: the bundle's folder; files go under ``engines/<id>/`` in it.
            calibration: real rows, for engines that need activation ranges.

        Returns:
            A ready entry, yet unproven: no parity, accuracy or latency.

        Raises:
            EngineUnavailable: a package, an instruction set or a device is missing.
            EngineFailed: the build tool raised, or what it built is not what was asked for.
        """
        ...


_IN_ORDER: tuple[Builder, ...] = (
    OnnxFp32(),
    OnnxInt8(),
    OpenVINOBuilder("openvino-f32", "fp32", "f32"),
    OpenVINOBuilder("openvino-bf16", "bf16", "bf16"),
    PackedBuilder("openvino-f32-packed", "fp32", "f32"),
    PackedBuilder("openvino-bf16-packed", "bf16", "bf16"),
    PackedBuilder("openvino-int8-packed", "int8", "f32", group=64),
)
BUILDERS: Mapping[str, Builder] = {builder.id: builder for builder in _IN_ORDER}
_STANDS_IN = {"openvino-f32-packed": "openvino-bf16-packed"}
"""Engines that are built by default only where the other can't be: the same graph, never as fast as it."""


def auto_engines() -> tuple[str, ...]:
    """Ids that ``--engines auto`` tries on this machine."""
    return tuple(
        name for name in BUILDERS if name not in _STANDS_IN or BUILDERS[_STANDS_IN[name]].unavailable() is not None
    )


ELSEWHERE: Mapping[str, str] = {
    "tensorrt-fp16": "this version of nlpdeploy builds no TensorRT engines; take onnx-int8 or openvino-bf16 on a CPU",
    "tensorrt-fp32": "this version of nlpdeploy builds no TensorRT engines; take onnx-fp32 or openvino-f32 on a CPU",
}
"""Ids that name an engine which can't be built here, and why."""
