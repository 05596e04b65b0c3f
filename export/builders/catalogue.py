"""The engines that can be built, in the order of the table. Imports no runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from ...bundle.manifest import EngineEntry
from ...bundle.specs import Layout
from ...runtime.text import Row
from ..graph import Graph
from .onnx import OnnxFp32, OnnxInt8
from .onnx_gpu import onnx_gpu_builders
from .openvino import OpenVINOBuilder
from .openvino_packed import PackedBuilder
from .tensorrt import TypedGraph, ahead_builder, local_builders
from .tensorrt_library import Progress
from .tensorrt_profile import Profile


class Described(Protocol):
    """What is known of an engine before it is built."""

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


class Builder(Described, Protocol):
    """Makes one engine."""

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


@runtime_checkable
class TypedBuilder(Described, Protocol):
    """Makes one engine for a GPU from a strongly typed graph."""

    def build_typed(
        self,
        graph: TypedGraph,
        bundle: Path,
        profiles: Sequence[Profile],
        usable: int,
        rebuild: str,
        progress: Progress = ...,
        workspace_bytes: int = ...,
    ) -> EngineEntry:
        """See ``TensorRTBuilder.build_typed``."""
        ...


_IN_ORDER: tuple[Builder, ...] = (
    OnnxFp32(),
    OnnxInt8("onnx-int8", Layout.PADDED),
    OnnxInt8("onnx-int8-packed", Layout.PACKED),
    OpenVINOBuilder("openvino-f32", "fp32", "f32"),
    OpenVINOBuilder("openvino-bf16", "bf16", "bf16"),
    PackedBuilder("openvino-f32-packed", "fp32", "f32"),
    PackedBuilder("openvino-bf16-packed", "bf16", "bf16"),
    PackedBuilder("openvino-int8-packed", "int8", "f32", int8=True),
)
BUILDERS: Mapping[str, Builder] = {builder.id: builder for builder in _IN_ORDER}
_STANDS_IN = {"openvino-f32-packed": "openvino-bf16-packed", "onnx-int8-packed": "openvino-int8-packed"}
"""Engines that are built by default only where the other can't be, which is the faster of the two."""


_FOR_GPU: tuple[TypedBuilder, ...] = (*local_builders(), *onnx_gpu_builders())
GPU_BUILDERS: Mapping[str, TypedBuilder] = {builder.id: builder for builder in _FOR_GPU}
"""Engines for the GPU of this machine."""


def find_builder(engine_id: str) -> Builder | TypedBuilder | None:
    """The builder of an id; None where there is none.

    Raises:
        InvalidInput: an engine for an architecture that can't be built for.
    """
    return BUILDERS.get(engine_id) or GPU_BUILDERS.get(engine_id) or ahead_builder(engine_id)


def auto_engines() -> tuple[str, ...]:
    """Ids that ``--engines auto`` tries on this machine; those for its GPU where they can be built."""
    cpu = [name for name in BUILDERS if name not in _STANDS_IN or BUILDERS[_STANDS_IN[name]].unavailable() is not None]
    return (*cpu, *(name for name, builder in GPU_BUILDERS.items() if builder.unavailable() is None))
