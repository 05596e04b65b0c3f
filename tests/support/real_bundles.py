"""Bundles of the real checkpoints, exported once a run as a user would."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.once import once
from support.shared import SHARED

DATA = SHARED / "data"


@dataclass(frozen=True)
class Subject:
    """A checkpoint, the data that it is proven on, and the engines wanted."""

    name: str
    checkpoint: str
    data: str
    label_column: str
    every: int
    """Of so many texts one is taken."""
    engines: str


SUBJECTS = {
    "english": Subject("intent", "banking77-minilm", "banking77/test.csv", "category", 6, "auto"),
    # The English one has all engines that can run here.
    "chinese": Subject(
        "reviews", "zh-reviews-roberta", "zh_reviews/test.csv", "label", 4, "onnx-fp32,onnx-int8,openvino-f32"
    ),
}


@dataclass(frozen=True)
class Exported:
    """A published bundle of a real checkpoint, and what the command printed."""

    store: Path
    name: str
    result: dict[str, Any]
    table: str
    data: Path


def exported(root: Path, which: str) -> Exported:
    """Export a subject into ``root``, or wait for who does, or take what was made there."""
    folder, subject = root / which, SUBJECTS[which]
    folder.mkdir(exist_ok=True)
    checkpoint, proof = SHARED / "checkpoints" / subject.checkpoint, _proof(folder, subject)
    done = once(
        folder, "export", checkpoint, "--name", subject.name, "--data", proof, "--text-column", "text",
        "--label-column", subject.label_column, "--store", folder / "store",
        "--engines", subject.engines, "--timing-seconds", 4, "--json", timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Exported(folder / "store", subject.name, json.loads(done.stdout), done.stderr, DATA / subject.data)


def _proof(folder: Path, subject: Subject) -> Path:
    proof = folder / "proof.csv"
    if not proof.exists():
        with (DATA / subject.data).open(encoding="utf-8", newline="") as stream:
            head, *rows = csv.reader(stream)
        with proof.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([head, *rows[:: subject.every]])
    return proof
