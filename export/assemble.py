"""The parts of a bundle that are not engines: tokenizer, golden samples, manifest, evidence."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..bundle.digest import folder_digests
from ..bundle.errors import ParityFailed, StoreFailed
from ..bundle.evidence import Latency
from ..bundle.manifest import MANIFEST_NAME, EngineEntry, GoldenSample, Manifest, to_plain
from ..bundle.store import Store
from ..runtime.predictor import TOKENIZER_FILE
from ..runtime.tasks import top_classes
from ..runtime.text import TextEncoder
from .bench import Bench
from .checkpoint import Checkpoint
from .choice import choose
from .request import ExportRequest

GOLDEN_SAMPLES = 8


def write_tokenizer(folder: Path, checkpoint: Checkpoint) -> TextEncoder:
    """Write tokenizer and config into the bundle, and read the tokenizer back as the server will."""
    path = folder / TOKENIZER_FILE
    path.parent.mkdir(parents=True)
    path.write_text(checkpoint.tokenizer_json, encoding="utf-8")
    config = json.dumps(checkpoint.config, ensure_ascii=False, indent=2, sort_keys=True)
    (folder / "config.json").write_text(config + "\n", encoding="utf-8")
    return TextEncoder(path, checkpoint.model.max_length)


def assemble_manifest(
    request: ExportRequest,
    bench: Bench,
    entries: Sequence[EngineEntry],
    latency: Mapping[str, Latency],
    notes: tuple[str, ...],
) -> tuple[Manifest, str]:
    """The manifest with the engine chosen, and why that one.

    Where none may serve, ``default_engine`` is empty and the sentence says why. ``notes`` are the whole export's.
    """
    try:
        default, reason = choose(entries, max_accuracy_drop=request.max_accuracy_drop)
    except ParityFailed as error:
        default, reason = "", error.line()
    manifest = Manifest(
        name=request.name,
        model=bench.checkpoint.model,
        source=replace(bench.checkpoint.source, notes=notes),
        engines=tuple(_without_cases(entry) for entry in entries),
        default_engine=default,
        golden=golden_samples(bench),
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        reference_accuracy=bench.accuracy,
        reference_latency=latency.get(bench.reference.id),
    )
    return manifest, reason


def golden_samples(bench: Bench) -> tuple[GoldenSample, ...]:
    """A few real rows, spread over labels first and lengths second, with the reference's answers."""
    order = sorted(range(len(bench.rows)), key=lambda i: len(bench.rows[i]))
    order = [i for i in order if len(bench.rows[i]) <= 128] or order[:1]
    tops = top_classes(bench.answers.logits)
    chosen: dict[int, int] = {}
    for index in order:
        chosen.setdefault(int(tops[index]), index)
    spread = list(chosen.values()) + [i for i in order if i not in set(chosen.values())]
    step = max(1, len(chosen) // GOLDEN_SAMPLES)
    picked = (spread[: len(chosen) : step] + spread[len(chosen) :])[:GOLDEN_SAMPLES]
    pairs = bench.corpus.pairs
    return tuple(
        GoldenSample(
            text=bench.corpus.texts[i],
            text_pair=pairs[i] if pairs else None,
            input_ids=tuple(bench.rows[i].input_ids.tolist()),
            token_type_ids=tuple(bench.rows[i].token_type_ids.tolist()),
            logits=tuple(float(value) for value in np.asarray(bench.answers.logits[i], dtype=np.float32)),
        )
        for i in picked
    )


def write_evidence(folder: Path, entries: Sequence[EngineEntry]) -> None:
    """``evidence/parity.json`` and ``evidence/latency.json``: all cases and points in full."""
    evidence = folder / "evidence"
    evidence.mkdir(exist_ok=True)
    parity = {entry.id: to_plain(entry.parity) for entry in entries if entry.parity}
    latency = {entry.id: {"latency": to_plain(entry.latency), "curve": to_plain(entry.curve)} for entry in entries}
    for name, content in (("parity", parity), ("latency", latency)):
        text = json.dumps(content, ensure_ascii=False, indent=2, sort_keys=True)
        (evidence / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def keep_evidence(store: Store, folder: Path, manifest: Manifest) -> Path:
    """Copy manifest and evidence of an export that was not published to ``<store>.evidence/<name>-<time>/``.

    Raises:
        StoreFailed: the folder can't be written.
    """
    stamp = manifest.created.replace(":", "").replace("+0000", "Z")
    root = store.root.resolve()  # "." has no name to add to
    target = root.with_name(root.name + ".evidence") / f"{manifest.name}-{stamp}"
    try:
        shutil.copytree(folder / "evidence", target / "evidence", dirs_exist_ok=True)
        sealed = replace(manifest, files=folder_digests(folder)).sealed()
        (target / MANIFEST_NAME).write_bytes(sealed.to_bytes())
    except OSError as error:
        raise StoreFailed(f"evidence folder {target}: {error.strerror or error}") from error
    return target


def _without_cases(entry: EngineEntry) -> EngineEntry:
    # The grid and the flips in full stand in evidence/parity.json, which the manifest lists with its digest.
    if entry.parity is None:
        return entry
    return replace(entry, parity=replace(entry.parity, cases=(), flipped=(), error_counts=()))
