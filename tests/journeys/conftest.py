"""Bundles of the real checkpoints, exported once as a user would."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.cli import nlpdeploy
from support.shared import SHARED


@dataclass(frozen=True)
class Exported:
    """A published bundle of a real checkpoint, and what the command printed."""

    store: Path
    name: str
    result: dict[str, Any]
    table: str
    data: Path


def export_real(
    folder: Path, name: str, checkpoint: str, data: str, label_column: str, *, every: int, engines: str = "auto"
) -> Exported:
    """The bundle as the command publishes it, proven on every so manieth text of the data."""
    if not SHARED.is_dir():
        pytest.skip(f"no real checkpoints and data at {SHARED}")
    proof = folder / "proof.csv"
    with (SHARED / "data" / data).open(encoding="utf-8", newline="") as stream:
        head, *rows = csv.reader(stream)
    with proof.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([head, *rows[::every]])
    done = nlpdeploy(
        "export", SHARED / "checkpoints" / checkpoint, "--name", name, "--data", proof,
        "--text-column", "text", "--label-column", label_column, "--store", folder / "store",
        "--engines", engines, "--timing-seconds", 4, "--json", timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Exported(folder / "store", name, json.loads(done.stdout), done.stderr, SHARED / "data" / data)


@pytest.fixture(scope="session")
def english(tmp_path_factory) -> Exported:
    store = tmp_path_factory.mktemp("english")
    return export_real(store, "intent", "banking77-minilm", "banking77/test.csv", "category", every=6)


@pytest.fixture(scope="session")
def chinese(tmp_path_factory) -> Exported:
    store = tmp_path_factory.mktemp("chinese")
    engines = "onnx-fp32,onnx-int8,openvino-f32"  # the English one has all that can run here
    return export_real(store, "reviews", "zh-reviews-roberta", "zh_reviews/test.csv", "label", every=4, engines=engines)
