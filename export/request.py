"""What an export is asked for, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..bundle.manifest import Manifest
from ..bundle.names import Reference
from ..bundle.store import Store

Progress = Callable[[str, int, int], None]
"""Told (stage, steps done, steps in all); 0 in all where that is not known."""


@dataclass(frozen=True)
class ExportRequest:
    """What to export and how to judge it.

    Attributes:
        checkpoint: folder of the fine-tuned model.
        store: where the bundle goes.
        name: model name.
        engines: ids asked for; empty for ``auto``: all that this machine can build, published if one passes.
        gpu: architectures that TensorRT fp16 engines are built for ahead of time, e.g. ``sm86``, beside ``engines``.
        gpu_workspace_bytes: most scratch memory of one kernel of an engine for a GPU.
        task: settles the task where the checkpoint leaves it open.
        activation: another output function than the checkpoint's.
        weights: which weight file, where two differ.
        labels: text file of labels, one a line, instead of the checkpoint's.
        pair: whether inputs are pairs.
        data: labelled or plain texts of the user; by default built-in sentences.
        text_column: its column of texts.
        label_column: its column of labels.
        pair_column: its column of second texts.
        max_accuracy_drop: most accuracy that the chosen engine may lose against the checkpoint.
        tolerance: largest logit error allowed, instead of the precision's own.
        timing_seconds: time spent on measuring speed.
        promote: make the new version the one that serves.
    """

    checkpoint: Path
    store: Store
    name: str
    engines: tuple[str, ...] = ()
    gpu: tuple[str, ...] = ()
    gpu_workspace_bytes: int = 4 << 30
    task: str | None = None
    activation: str | None = None
    weights: str | None = None
    labels: Path | None = None
    pair: bool = False
    data: Path | None = None
    text_column: str | None = None
    label_column: str | None = None
    pair_column: str | None = None
    max_accuracy_drop: float = 0.005
    tolerance: float | None = None
    timing_seconds: float = 24.0
    promote: bool = True


@dataclass(frozen=True)
class ExportResult:
    """What came of it.

    Attributes:
        manifest: the bundle's manifest, sealed where it was published.
        reference: the published version; None where nothing was published.
        report: path of the report.
        choice: why the default engine was chosen, or why nothing was published.
        notes: what was taken by default, one sentence each.
        seconds: time of the whole export.
    """

    manifest: Manifest
    reference: Reference | None
    report: Path
    choice: str
    notes: tuple[str, ...]
    seconds: float
