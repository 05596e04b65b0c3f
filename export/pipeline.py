"""Checkpoint -> published bundle, as one straight line.

read the checkpoint -> compute the fp32 reference's answers -> export the graph -> build each engine and prove it ->
time them interleaved -> choose -> write the evidence -> publish.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..bundle.errors import EngineFailed, EngineUnavailable, InvalidInput, Unsupported
from ..bundle.evidence import Latency
from ..bundle.manifest import EngineEntry
from ..bundle.specs import EngineState
from ..runtime.engine import Engine
from .accuracy import measure_accuracy
from .assemble import assemble_manifest, keep_evidence, write_evidence, write_tokenizer
from .bench import Bench, measure_reference
from .builders import BUILDERS, GPU_BUILDERS, Builder, TypedBuilder, ahead_ids, auto_engines, find_builder
from .checkpoint import Checkpoint, load_torch, read_checkpoint
from .corpus import Corpus, built_in_corpus, read_corpus
from .curve_fit import fit_curve
from .gpu_engines import build_for_gpu
from .graph import Graph, export_graph
from .machine import busy_note, check_packages
from .parity import engine_answers, judge_parity
from .replay import write_replay
from .report import write_report
from .request import ExportRequest, ExportResult, Progress
from .threads import load_on_best_threads, with_threads
from .timing import EngineStopped, measure_latency
from .typed_graphs import TypedGraphs

CORPUS_LIMIT = 4000
CALIBRATION_ROWS = 256


def export_checkpoint(request: ExportRequest, progress: Progress = lambda stage, done, total: None) -> ExportResult:
    """Export, prove, time, choose and publish.

    Returns:
        The result; ``reference`` is None where an engine asked for did not pass, or none passed at all. The evidence is
        kept beside the store then.

    Raises:
        NlpdeployError: the checkpoint, the data or the store is unusable; nothing is published.
    """
    started = time.monotonic()
    check_packages()
    ids = _engine_ids(request.engines, request.gpu)
    with request.store.staging(request.name) as staging:
        progress("reading the checkpoint", 0, 0)
        checkpoint = read_checkpoint(
            request.checkpoint, task=request.task, activation=request.activation, weights=request.weights,
            labels=request.labels, pair=request.pair or request.pair_column is not None,
        )  # fmt: skip
        corpus = _corpus(request, checkpoint)
        encoder = write_tokenizer(staging.path, checkpoint)
        bench = measure_reference(checkpoint, corpus, encoder, progress)
        graph = _graph(staging.path, checkpoint, progress)
        typed = TypedGraphs(
            graph, _work(staging.path) / "typed", staging.path / "evidence", bench, request.tolerance, progress
        )
        entries = [_build_and_prove(i, graph, typed, staging.path, bench, request, progress) for i in ids]
        shutil.rmtree(_work(staging.path))
        busy = busy_note()
        entries, latency = _time(entries, bench, staging.path, request.timing_seconds, progress)
        notes = (*checkpoint.notes, *corpus.notes, *busy)
        manifest, choice = assemble_manifest(request, bench, entries, latency, notes)
        lacking = unmet((*request.engines, *_ahead(request.gpu)), entries)
        if lacking:
            manifest = replace(manifest, default_engine="")
            choice = "nothing is published without " + "; ".join(
                f"{entry.id}, which was asked for: {entry.state}, {entry.reason}" for entry in lacking
            )
        write_evidence(staging.path, entries)
        if any(entry.state is EngineState.UNPROVEN for entry in entries):
            write_replay(staging.path, bench.answers)
        write_report(manifest, staging.path)
        published = None
        if manifest.default_engine:
            published = request.store.publish(staging, manifest, promote=request.promote)
            manifest = request.store.manifest(str(published))
            folder = published.path
        else:
            folder = keep_evidence(request.store, staging.path, manifest)
    return ExportResult(manifest, published, folder / "evidence/report.html", choice, notes, time.monotonic() - started)


def unmet(asked: Sequence[str], entries: Sequence[EngineEntry]) -> list[EngineEntry]:
    """The engines that were asked for by id and did not pass; one built for a GPU elsewhere is what was asked for."""
    met = (EngineState.READY, EngineState.UNPROVEN)
    return [entry for entry in entries if entry.id in asked and entry.state not in met]


def _engine_ids(asked: Sequence[str], gpu: Sequence[str]) -> tuple[str, ...]:
    for engine_id in asked:
        if find_builder(engine_id) is None:
            known = ", ".join((*BUILDERS, *GPU_BUILDERS, "tensorrt-rtx-fp16-sm86 and its like"))
            raise InvalidInput("--engines", found=repr(engine_id), wanted=f"auto, or some of {known}")
    if len(set(asked)) != len(asked):
        raise InvalidInput("--engines", found=",".join(asked), wanted="each id once")
    return (*(tuple(asked) or auto_engines()), *(engine_id for engine_id in _ahead(gpu) if engine_id not in asked))


def _ahead(gpu: Sequence[str]) -> tuple[str, ...]:
    return ahead_ids(gpu) if gpu else ()


def _corpus(request: ExportRequest, checkpoint: Checkpoint) -> Corpus:
    if request.data is None:
        return built_in_corpus(checkpoint.model)
    return read_corpus(
        request.data,
        checkpoint.model,
        text_column=request.text_column,
        label_column=request.label_column,
        pair_column=request.pair_column,
        limit=CORPUS_LIMIT,
    )


def _work(folder: Path) -> Path:
    return folder / "work"


def _graph(folder: Path, checkpoint: Checkpoint, progress: Progress) -> Graph:
    progress("exporting the graph", 0, 0)
    _work(folder).mkdir()
    return export_graph(load_torch(checkpoint), checkpoint, _work(folder))


def _build_and_prove(
    engine_id: str,
    graph: Graph,
    typed: TypedGraphs,
    folder: Path,
    bench: Bench,
    request: ExportRequest,
    progress: Progress,
) -> EngineEntry:
    builder = find_builder(engine_id)
    if builder is None:
        raise InvalidInput("engine id", found=engine_id)
    blank = EngineEntry(engine_id, builder.runtime, builder.precision, builder.layout, EngineState.SKIPPED)
    reason = builder.unavailable()
    if reason is not None:
        return replace(blank, reason=reason)
    progress(f"building {engine_id}", 0, 0)
    try:
        entry = _build(builder, graph, typed, folder, bench, request, progress)
        if entry.state is EngineState.UNPROVEN:
            return entry
        engine, entry = load_on_best_threads(entry, folder, bench.rows, bench.checkpoint.model.pad_id)
    except EngineUnavailable as error:
        return _withdrawn(replace(blank, reason=error.line()), folder)
    except (EngineFailed, Unsupported) as error:
        return _failed(blank, error.line(), folder)
    model = bench.checkpoint.model
    given = engine_answers(engine, bench.answers, model, progress=progress)
    parity = judge_parity(given, entry.precision, bench.answers, model, tolerance=request.tolerance)
    entry = replace(entry, parity=parity)
    if not parity.passed:
        engine.close()
        return _failed(entry, parity.reason, folder)
    bench.passed[engine_id] = engine
    if bench.corpus.labels is None or given.logits is None:
        return entry
    return replace(entry, accuracy=measure_accuracy(given.logits, bench.corpus.labels, model, bench.answers.logits))


def _build(
    builder: Builder | TypedBuilder,
    graph: Graph,
    typed: TypedGraphs,
    folder: Path,
    bench: Bench,
    request: ExportRequest,
    progress: Progress,
) -> EngineEntry:
    if isinstance(builder, TypedBuilder):
        return build_for_gpu(builder, typed, folder, bench, request, progress)
    return builder.build(graph, folder, bench.rows[:CALIBRATION_ROWS])


def _failed(entry: EngineEntry, reason: str | None, folder: Path) -> EngineEntry:
    return _withdrawn(replace(entry, state=EngineState.FAILED, reason=reason, file=None), folder)


def _withdrawn(entry: EngineEntry, folder: Path) -> EngineEntry:
    # What can't serve is not shipped; its evidence is.
    shutil.rmtree(folder / "engines" / entry.id, ignore_errors=True)
    return entry


def _time(
    entries: list[EngineEntry], bench: Bench, folder: Path, seconds: float, progress: Progress
) -> tuple[list[EngineEntry], dict[str, Latency]]:
    """Time what passed, and fail what raises meanwhile."""
    latency, stopped = _interleaved(entries, bench, folder, seconds, progress)
    timed = []
    for entry in entries:
        engine = bench.passed.get(entry.id)
        if engine is not None:
            progress(f"fitting the latency curve of {entry.id}", 0, 0)
            try:
                curve = fit_curve(engine, bench.rows, bench.checkpoint.model, budget_seconds=seconds / 8)
                entry = replace(entry, latency=latency[entry.id], curve=curve)
            except EngineFailed as error:
                stopped[entry.id] = error.line()
            engine.close()
        timed.append(_failed(entry, stopped[entry.id], folder) if entry.id in stopped else entry)
    bench.reference.close()
    return timed, latency


def _interleaved(
    entries: Sequence[EngineEntry], bench: Bench, folder: Path, seconds: float, progress: Progress
) -> tuple[dict[str, Latency], dict[str, str]]:
    """Times by id, and why by id of those that raised; after each of them the others are timed anew, among themselves.

    The engines that passed are on one thread afterwards.

    Raises:
        EngineFailed: the reference raised.
    """
    stopped: dict[str, str] = {}
    by_id = {entry.id: entry for entry in entries}

    def seat(name: str, *, lone: bool) -> Engine:
        if name not in bench.passed:
            bench.reference.use_threads(bench.reference.threads if lone else 1)
            return bench.reference
        bench.passed[name] = with_threads(bench.passed[name], by_id[name], folder, lone=lone)
        return bench.passed[name]

    while True:
        engines: dict[str, Engine] = {bench.reference.id: bench.reference, **bench.passed}
        try:
            latency = measure_latency(
                engines, bench.rows, bench.checkpoint.model, baseline=bench.reference.id, budget_seconds=seconds,
                seed=0, narrow=lambda name: seat(name, lone=False), progress=progress,
            )  # fmt: skip
            return latency, stopped
        except EngineStopped as error:
            if error.engine not in bench.passed:
                raise
            bench.passed.pop(error.engine).close()
            stopped[error.engine] = error.line()
            for name in (bench.reference.id, *bench.passed):
                seat(name, lone=True)
