"""Right labels from the bundle that answers: its golden samples, where this machine's store holds the same bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle.digest import read_manifest
from ..bundle.errors import NlpdeployError, StoreFailed
from ..bundle.manifest import GoldenSample, Manifest
from ..bundle.names import check_name
from ..bundle.specs import EngineState, Task
from ..bundle.store import Store
from .payloads import Payloads
from .plan import Side
from .samples import ServerFacts

GOLDEN_FILE = "golden.json"


@dataclass(frozen=True)
class Golden:
    """Labels that a run's answers are held to.

    Attributes:
        path: the labels, one a data row, null where the bundle has none.
        rows: how many have one.
        sides: whose answers come from that bundle.
        digest: of the bundle.
    """

    path: Path
    rows: int
    sides: tuple[Side, ...]
    digest: str

    def to_json(self) -> dict[str, Any]:
        """For the run's record."""
        return {"rows": self.rows, "sides": list(self.sides), "digest": self.digest}


def keep_golden(
    store: Path, model: str, servers: Mapping[Side, ServerFacts], payloads: Payloads, run_dir: Path
) -> Golden | None:
    """Write the labels that the candidate's bundle gives for the data's texts into the run folder; None without any.

    Args:
        store: folder of bundles; the candidate's is known there by the digest that its server told.
        model: its name.
        servers: what both sides said of themselves.
        payloads: the texts.
        run_dir: the run folder.

    Raises:
        StoreFailed: the run folder can't be written.
    """
    digest = servers["candidate"].digest
    manifest = _find(store, model, digest) if digest else None
    if manifest is None or digest is None:
        return None
    known = golden_labels(manifest)
    pairs = payloads.pairs or (None,) * len(payloads.texts)
    labels = [known.get((text, pair)) for text, pair in zip(payloads.texts, pairs, strict=True)]
    rows = sum(label is not None for label in labels)
    if not rows:
        return None
    path = run_dir / GOLDEN_FILE
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(labels, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        raise StoreFailed("run folder", found=error, mend="give a --run-dir that can be written") from error
    return Golden(path, rows, tuple(side for side, facts in servers.items() if facts.digest == digest), digest)


def golden_labels(manifest: Manifest) -> dict[tuple[str, str | None], str]:
    """The label by text (and second text) of the golden samples whose label is beyond doubt.

    A sample is left out where the reference preferred its label by no more than the margin within which an engine that
    serves may differ.
    """
    if manifest.model.task is Task.REGRESSION or len(manifest.model.labels) < 2:
        return {}
    ready = [entry.parity for entry in manifest.engines if entry.state is EngineState.READY]
    margin = max((parity.flip_margin for parity in ready if parity is not None), default=0.0)
    return {
        (sample.text, sample.text_pair): manifest.model.labels[sample.logits.index(max(sample.logits))]
        for sample in manifest.golden
        if _lead(sample) > margin
    }


def _lead(sample: GoldenSample) -> float:
    first, second, *_ = sorted(sample.logits, reverse=True)
    return first - second


def _find(store: Path, model: str, digest: str) -> Manifest | None:
    """The bundle of that name and digest; None where the store has none that can be read."""
    try:
        check_name(model)
        versions = Store(store).versions(model)
    except NlpdeployError:
        return None
    for version in reversed(versions):
        try:
            manifest = read_manifest(store / model / str(version))
        except NlpdeployError:
            continue
        if manifest.digest == digest:
            return manifest
    return None
