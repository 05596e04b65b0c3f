"""Engines for ONNX Runtime on the CPU: fp32 with fused operators, and int8 made from them, padded and packed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...bundle.errors import EngineFailed, EngineUnavailable, NlpdeployError, Unsupported
from ...bundle.manifest import EngineEntry, Option
from ...bundle.specs import EngineState, Layout
from ...runtime.catalogue import RUNTIMES
from ...runtime.cores import instruction_sets
from ...runtime.text import Row
from ..checkpoint import load_torch
from ..exporters import silence
from ..graph import Graph, export_packed
from ..packed import checked_pack
from .files import engine_folder, size_bytes

RUNTIME = "onnxruntime"
INT8_CLASSES = ("avx512_vnni", "avx_vnni", "avx512f", "avx2", "i8mm", "asimd")
"""Instruction sets that choose ONNX Runtime's int8 kernels, the best first."""
WIDE_CLASSES = ("avx512_vnni", "avx_vnni", "i8mm", "asimd")
"""Those that add products of uint8 and int8 in 32 bits."""
NARROW = ", two neighbours between -128 and 128 together, whose products this CPU adds in 16 bits"


@dataclass(frozen=True)
class OnnxFp32:
    """The fused fp32 graph."""

    id: str = "onnx-fp32"
    runtime: str = RUNTIME
    precision: str = "fp32"
    layout: Layout = Layout.PADDED

    def unavailable(self) -> str | None:
        """See ``Builder.unavailable``."""
        return _missing(self.id)

    def build(self, graph: Graph, bundle: Path, calibration: Sequence[Row]) -> EngineEntry:
        """See ``Builder.build``; raises EngineFailed with the counts where the graph isn't fused wholly."""
        import onnx

        from ..passes.files import save_model

        _require_whole(graph, self.id)
        file = engine_folder(bundle, self.id) / "model.onnx"
        save_model(onnx.load(str(graph.fused)), file)
        return _entry(self.id, self.precision, graph, bundle, file, {}, {})


@dataclass(frozen=True)
class OnnxInt8:
    """A fused graph with its matrix products in int8; see ``passes/int8.py``.

    Attributes:
        id: the engine's id.
        layout: of padded rows, or of all texts in one row; see ``export/packed.py``.
    """

    id: str
    layout: Layout
    runtime: str = RUNTIME
    precision: str = "int8"

    def unavailable(self) -> str | None:
        """See ``Builder.unavailable``."""
        return _missing(self.id)

    def build(self, graph: Graph, bundle: Path, calibration: Sequence[Row]) -> EngineEntry:
        """See ``Builder.build``.

        Raises:
            EngineFailed: with the counts where the graph isn't fused wholly.
            EngineUnavailable: the architecture's answers depend on packing.
        """
        from ..passes import int8

        if self.layout is Layout.PACKED:
            graph = _packed(graph, calibration)
        _require_whole(graph, self.id)
        file = engine_folder(bundle, self.id) / "model.onnx"
        flags = instruction_sets()
        isa = next((name for name in INT8_CLASSES if name in flags), "any")
        narrow = isa not in WIDE_CLASSES
        try:
            products = int8.quantise(
                graph.fused, file, layers=graph.layers, hidden_size=graph.hidden_size, narrow_sums=narrow
            )
        except NlpdeployError:
            raise
        except Exception as error:  # noqa: BLE001 - protobuf, numpy and onnx raise kinds of their own
            raise EngineFailed(f"engine {self.id} can't be built", found=f"{type(error).__name__}: {error}") from None
        options: dict[str, Option] = {
            "weights": "int8, symmetric, a scale for each output channel" + (NARROW if narrow else ""),
            "activations": "int8, dynamic, a scale for each token",
            "quantised": f"{products} matrix products; embeddings and head stay fp32",
        }
        entry = _entry(self.id, self.precision, graph, bundle, file, options, {"isa": isa})
        return replace(entry, layout=self.layout)


def _packed(graph: Graph, rows: Sequence[Row]) -> Graph:
    """The checkpoint's graph for packed rows, under the name of its exporter with what was found when it was packed."""
    checkpoint = graph.checkpoint
    try:
        with silence():
            packed = checked_pack(
                load_torch(checkpoint), rows, checkpoint.model.pad_id, token_types="token_type_ids" in checkpoint.inputs
            )
    except Unsupported as error:
        raise EngineUnavailable(error.line(), mend="padded engines answer these models") from None
    folder = graph.file.parent.parent / "packed-onnx"
    folder.mkdir()
    made = export_packed(packed, rows, checkpoint, folder)
    return replace(made, exporter=f"{made.exporter}; {packed.note}")


def _missing(engine_id: str) -> str | None:
    runtime = RUNTIMES[RUNTIME]
    if not runtime.installed():
        return f"engine {engine_id} needs {runtime.package}: {runtime.install_line()}"
    if importlib.util.find_spec("onnx") is None:
        return f"engine {engine_id} needs onnx: pip install 'nlpdeploy[export]'"
    return None


def _require_whole(graph: Graph, engine_id: str) -> None:
    if not graph.fusion.whole:
        raise EngineFailed(
            f"engine {engine_id}: the graph of {graph.model_type} is not fused wholly",
            found=str(graph.fusion),
            wanted="all of them",
            mend="openvino-f32 needs no fusion; or export with the onnxruntime and torch this release was tested with",
        )


def _entry(
    engine_id: str,
    precision: str,
    graph: Graph,
    bundle: Path,
    file: Path,
    options: Mapping[str, Option],
    valid_for: Mapping[str, str],
) -> EngineEntry:
    made: dict[str, Option] = {"exporter": graph.exporter, "opset": graph.opset, "fused": str(graph.fusion)}
    return EngineEntry(
        id=engine_id,
        runtime=RUNTIME,
        precision=precision,
        layout=Layout.PADDED,
        state=EngineState.READY,
        file=file.relative_to(bundle).as_posix(),
        inputs=graph.inputs,
        outputs=graph.outputs,
        options={**made, **options},
        valid_for=valid_for,
        size_bytes=size_bytes(file.parent),
    )
