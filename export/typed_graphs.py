"""The graphs that GPU engines are built from, and what proves their numbers where the GPU is missing.

Standard operators are exported once; for half precision the nodes that need fp32 are searched once. Parity without the
hardware is *emulated*: the graph runs on the CPU, half graphs rounded after every node.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle.evidence import ParityResult
from ..bundle.manifest import EngineEntry
from ..bundle.specs import EngineState, Layout
from ..runtime.catalogue import load_engine
from ..runtime.cores import usable_cores
from ..runtime.engine import EngineOptions
from .bench import Bench
from .builders.tensorrt import TypedGraph
from .checkpoint import load_torch
from .emulate import LIMITS
from .graph import Graph, export_standard
from .parity import engine_answers, judge_parity
from .passes.half import write_half
from .passes.standard import all_nodes, load_standard
from .precision import choose_precision
from .request import Progress
from .witness import call_witness

FP32_LIMITS = (
    "emulated: the same graph in fp32 on the CPU; the GPU's kernels sum in another order, and fuse nodes otherwise"
)


@dataclass(frozen=True)
class Typed:
    """A graph and the parity that its emulation showed."""

    graph: TypedGraph
    parity: ParityResult
    limits: str


class TypedGraphs:
    """Makes each graph once for all engines of an export.

    Args:
        graph: the export's own graph: names, specs and the checkpoint.
        folder: for the files; made when it is needed.
        evidence: folder for what the search for fp32 nodes found; made when it is needed.
        bench: the checkpoint's answers.
        tolerance: an own limit for the largest logit error.
        progress: told what is going on.
    """

    def __init__(
        self, graph: Graph, folder: Path, evidence: Path, bench: Bench, tolerance: float | None, progress: Progress
    ) -> None:
        self._graph = graph
        self._folder = folder
        self._evidence = evidence
        self._bench = bench
        self._tolerance = tolerance
        self._progress = progress
        self._made: dict[str, Typed] = {}
        self._opset = 0

    def of(self, precision: str) -> Typed:
        """The graph in a precision.

        Raises:
            NlpdeployError: it can't be exported or made half, or no set of nodes in fp32 makes it answer well.
        """
        if precision not in self._made:
            self._made[precision] = self._half() if precision == "fp16" else self._full()
        return self._made[precision]

    @property
    def _standard(self) -> Path:
        file = self._folder / "standard.onnx"
        if not self._opset:
            self._progress("exporting the graph of standard operators", 0, 0)
            self._folder.mkdir(exist_ok=True)
            self._opset = export_standard(load_torch(self._graph.checkpoint), self._graph.checkpoint, file)
        return file

    def _full(self) -> Typed:
        file = self._standard
        weights = _weights_bytes(load_standard(file))
        graph = TypedGraph(
            file, self._graph.inputs, self._graph.outputs, self._opset, (), (), weights, weights, "fp32, as exported"
        )
        entry = EngineEntry(
            "standard-fp32", "onnxruntime", "fp32", Layout.PADDED, EngineState.READY, file=file.name,
            inputs=graph.inputs, outputs=graph.outputs,
        )  # fmt: skip
        bench = self._bench
        engine = load_engine(entry, file.parent, EngineOptions(usable_cores()))
        try:
            given = engine_answers(engine, bench.answers, bench.checkpoint.model, progress=self._progress)
        finally:
            engine.close()
        parity = judge_parity(given, "fp32", bench.answers, bench.checkpoint.model, tolerance=self._tolerance)
        return Typed(graph, parity, FP32_LIMITS)

    def _half(self) -> Typed:
        file, half = self._standard, self._folder / "half.onnx"
        bench = self._bench
        choice = choose_precision(
            file, bench.answers, bench.checkpoint.model, precision="fp16", threads=usable_cores(),
            tolerance=self._tolerance, progress=self._progress,
        )  # fmt: skip
        report = write_half(file, half, precision="fp16", keep_fp32=choice.keep_fp32)
        model = load_standard(half)
        kept = {*report.keep_fp32, *(name for name, _ in report.forced_fp32)}
        witness = call_witness(
            half, self._graph.inputs, self._graph.outputs, bench.answers, bench.checkpoint.model, kept=kept,
            tolerance=self._tolerance, progress=self._progress,
        )  # fmt: skip
        graph = TypedGraph(
            file=half,
            inputs=self._graph.inputs,
            outputs=self._graph.outputs,
            opset=self._opset,
            kept=tuple(sorted(kept)),
            widening=_casts_to_fp32(model),
            graph_bytes=_weights_bytes(model),
            fp32_bytes=_weights_bytes(load_standard(file)),
            note="\n".join((*choice.lines(), str(report), str(witness))),
        )
        self._evidence.mkdir(exist_ok=True)
        found = {**choice.to_plain(), "witness": witness.to_plain()}
        text = json.dumps(found, ensure_ascii=False, indent=2, sort_keys=True)
        (self._evidence / "precision-fp16.json").write_text(text + "\n", encoding="utf-8")
        return Typed(graph, choice.parity, LIMITS)


def _weights_bytes(model: Any) -> int:
    """Size of a model's constants, in bytes."""
    values = (value for graph in model.graphs() for value in graph.initializers.values())
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)


def _casts_to_fp32(model: Any) -> tuple[str, ...]:
    """Names of the nodes that make fp32 of something."""
    fp32 = 1  # TensorProto.FLOAT
    return tuple(
        str(node.name) for node in all_nodes(model) if node.op_type == "Cast" and node.attributes["to"].as_int() == fp32
    )
