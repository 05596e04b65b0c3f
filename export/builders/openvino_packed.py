"""Engines for OpenVINO on the CPU that read all texts of a batch from one row; see ``export/packed.py``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...bundle.errors import EngineFailed, EngineUnavailable, Unsupported
from ...bundle.manifest import EngineEntry, Option
from ...bundle.specs import EngineState, Layout, TensorSpec
from ...runtime.cores import instruction_sets
from ...runtime.text import Row
from ..checkpoint import Checkpoint, load_torch
from ..exporters import silence
from ..graph import Graph
from ..packed import checked_pack, traced_rows
from .files import engine_folder, size_bytes
from .int8_groups import widest_group
from .openvino import RUNTIME, bf16_isa, unavailable_here

INT8_CLASSES = ("amx_int8", "avx512_vnni", "avx_vnni")
"""Instruction sets with which OpenVINO takes int8 products of tokens that are scaled as they come, the best first."""


@dataclass(frozen=True)
class PackedBuilder:
    """A packed OpenVINO model with a hint for the precision that it is computed in.

    Attributes:
        id: the engine's id.
        precision: as in the manifest.
        hint: OpenVINO's ``INFERENCE_PRECISION_HINT``: of all that is no int8 product.
        int8: whether matrix products are computed in int8. Each token has scales of its own, so that no other text has
            a say in an answer.
    """

    id: str
    precision: str
    hint: str
    int8: bool = False
    runtime: str = RUNTIME
    layout: Layout = Layout.PACKED

    def unavailable(self) -> str | None:
        """See ``Builder.unavailable``."""
        if self.int8 and not _int8_isa():
            return f"engine {self.id} needs a CPU with one of {', '.join(INT8_CLASSES)}, which this one lacks"
        return unavailable_here(self.id, self.hint)

    def build(self, graph: Graph, bundle: Path, calibration: Sequence[Row]) -> EngineEntry:
        """See ``Builder.build``; raises EngineUnavailable where the architecture's answers depend on packing."""
        from ...runtime.openvino import PRECISION_HINT

        made = _converted(graph.checkpoint, graph.file.parent.parent / "packed", calibration)
        folder = engine_folder(bundle, self.id)
        isa = _int8_isa() if self.int8 else bf16_isa() if self.hint == "bf16" else None
        entry = EngineEntry(
            id=self.id,
            runtime=RUNTIME,
            precision=self.precision,
            layout=Layout.PACKED,
            state=EngineState.READY,
            file=(folder / made.file.name).relative_to(bundle).as_posix(),
            inputs=made.inputs,
            outputs=made.outputs,
            options={
                PRECISION_HINT: self.hint,
                "exporter": f"torch trace: {made.note}",
                "openvino": made.version,
            },
            valid_for={"isa": isa} if isa else {},
        )
        if self.int8:
            entry = _compressed(entry, made, folder, graph, calibration)
        else:
            for file in (made.file, made.file.with_suffix(".bin")):
                shutil.copy2(file, folder / file.name)
        return replace(entry, size_bytes=size_bytes(folder))


def _compressed(entry: EngineEntry, made: _Converted, folder: Path, graph: Graph, rows: Sequence[Row]) -> EngineEntry:
    """Write the model with int8 weights; the entry with how wide the groups of states are that share a scale."""
    from ...runtime.openvino import GROUP_SIZE, compress_weights

    target = folder / made.file.name
    widths = compress_weights(made.file, target, narrowest=made.narrowest)
    if len(widths) != made.products or not widths:
        wanted = f"{made.products or 'some'}, as many as the checkpoint's own layers compute from a text"
        raise EngineFailed("matrix products for int8", found=len(widths), wanted=wanted)
    group = widest_group(entry, target, made.file, rows, graph.checkpoint.model.pad_id, widths)
    rest = "embeddings, attention's own products and weights narrower than the states, as a head's last, stay fp32"
    what = f"{len(widths)} matrix products, dynamic; {rest}"
    own: dict[str, Option] = {GROUP_SIZE: group.width, "quantised": what, "groups": group.note}
    return replace(entry, options={**entry.options, **own})


@dataclass(frozen=True)
class _Converted:
    """An fp32 file, and how many products with weights at least so wide it must hold."""

    file: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    note: str
    version: str
    narrowest: int
    products: int


_MADE: dict[Path, _Converted | EngineUnavailable] = {}
"""What became of a folder's conversion, in this process: both precisions compute the same file."""


def _converted(checkpoint: Checkpoint, folder: Path, rows: Sequence[Row]) -> _Converted:
    if folder not in _MADE or not folder.is_dir():
        folder.mkdir()
        try:
            _MADE[folder] = _convert(checkpoint, folder / "model.xml", rows)
        except EngineUnavailable as error:
            _MADE[folder] = error
    made = _MADE[folder]
    if isinstance(made, EngineUnavailable):
        raise made
    return made


def _convert(checkpoint: Checkpoint, file: Path, rows: Sequence[Row]) -> _Converted:
    from ...runtime.openvino import convert_module

    pad_id = checkpoint.model.pad_id
    try:
        with silence():
            packed = checked_pack(_load(checkpoint), rows, pad_id, token_types="token_type_ids" in checkpoint.inputs)
            narrowest = int(packed.module.base.config.hidden_size)
            products = packed.products(rows[:1], pad_id, narrowest=narrowest)
            sample = packed.tensors(traced_rows(rows), pad_id)
            version = convert_module(packed.module, packed.inputs, packed.outputs, sample, file)
    except Unsupported as error:
        raise EngineUnavailable(error.line(), mend="padded engines answer these models") from None
    except Exception as error:  # noqa: BLE001 - tracing runs the model's own code, the converter has kinds of its own
        line = (str(error).splitlines() or [""])[0]
        raise EngineFailed("packed rows can't be converted", found=f"{type(error).__name__}: {line}") from None
    return _Converted(file, packed.inputs, packed.outputs, packed.note, version, narrowest, products)


def _int8_isa() -> str | None:
    flags = instruction_sets()
    return next((name for name in INT8_CLASSES if name in flags), None)


def _load(checkpoint: Checkpoint) -> Any:
    """With fused attention where the architecture has it: a smaller graph, which OpenVINO runs a little faster."""
    try:
        return load_torch(checkpoint, attention="sdpa")
    except Unsupported:
        return load_torch(checkpoint, attention="eager")
