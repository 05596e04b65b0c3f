"""Engines for OpenVINO on the CPU: one fp32 model on disk, computed in f32 or in bf16."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...bundle.errors import EngineFailed
from ...bundle.manifest import EngineEntry
from ...bundle.specs import EngineState, Layout
from ...runtime.catalogue import RUNTIMES
from ...runtime.cores import instruction_sets
from ...runtime.text import Row
from ..graph import Graph
from .files import engine_folder, size_bytes

RUNTIME = "openvino"
BF16_CLASSES = ("amx_bf16", "avx512_bf16", "bf16")
"""Instruction sets with bf16 products, the best first."""


@dataclass(frozen=True)
class OpenVINOBuilder:
    """An OpenVINO model with a hint for the precision that it is computed in.

    Attributes:
        id: the engine's id.
        precision: as in the manifest.
        hint: OpenVINO's ``INFERENCE_PRECISION_HINT``.
    """

    id: str
    precision: str
    hint: str
    runtime: str = RUNTIME
    layout: Layout = Layout.PADDED

    def unavailable(self) -> str | None:
        """See ``Builder.unavailable``."""
        return unavailable_here(self.id, self.hint)

    def build(self, graph: Graph, bundle: Path, calibration: Sequence[Row]) -> EngineEntry:
        """See ``Builder.build``."""
        from ...runtime.openvino import PRECISION_HINT, convert

        file = engine_folder(bundle, self.id) / "model.xml"
        try:
            version = convert(graph.file, file)
        except Exception as error:  # noqa: BLE001 - the converter raises kinds of its own
            lines = str(error).splitlines() or [""]
            raise EngineFailed(
                f"engine {self.id} can't be built", found=f"{type(error).__name__}: {lines[0]}"
            ) from None
        isa = bf16_isa() if self.hint == "bf16" else None
        return EngineEntry(
            id=self.id,
            runtime=RUNTIME,
            precision=self.precision,
            layout=Layout.PADDED,
            state=EngineState.READY,
            file=file.relative_to(bundle).as_posix(),
            inputs=graph.inputs,
            outputs=graph.outputs,
            options={PRECISION_HINT: self.hint, "exporter": graph.exporter, "openvino": version},
            valid_for={"isa": isa} if isa else {},
            size_bytes=size_bytes(file.parent),
        )


def unavailable_here(engine_id: str, hint: str) -> str | None:
    """Why OpenVINO can't compute in a precision on this machine and what to install; None if it can."""
    runtime = RUNTIMES[RUNTIME]
    if not runtime.installed():
        return f"engine {engine_id} needs {runtime.package}: {runtime.install_line()}"
    if hint == "bf16" and bf16_isa() is None:
        return f"engine {engine_id} needs a CPU with one of {', '.join(BF16_CLASSES)}, which this one lacks"
    return None


def bf16_isa() -> str | None:
    """The best instruction set with bf16 products that this CPU has."""
    flags = instruction_sets()
    return next((name for name in BF16_CLASSES if name in flags), None)
