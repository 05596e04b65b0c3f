"""The second workload: a checkpoint in the shape of BERT-base, made here with random weights, and its bundle.

``wide TOKENIZER_OF ENGINE…`` makes both in a process of its own, so that the benchmark's has no PyTorch. What its
labels are means nothing; what a request costs is that of any BERT-base.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from nlpdeploy.bundle.digest import verified_manifest
from nlpdeploy.bundle.errors import NlpdeployError
from nlpdeploy.bundle.store import Store

from ..subject import HERE, WORK
from .plans import NotRun, Served

NAME = "bert-base"
HOME = WORK / "bert-base"
CHECKPOINT, DATA = HOME / "checkpoint", HOME / "texts.csv"
CLASSES = 8
SECONDS = 3600.0


def wide_model(tokenizer_of: Path, texts: Sequence[str], wanted: Sequence[str], *, make: bool = True) -> Served:
    """The bundle, made unless it is there with the engines that are ``wanted``.

    Args:
        tokenizer_of: a checkpoint whose tokenizer it takes.
        texts: for the export's parity and timing.
        wanted: ids of engines.
        make: make it; otherwise only look.

    Raises:
        NotRun: it isn't there, or can't be made.
    """
    asked = HOME / "asked.json"
    try:
        if set(wanted) <= set(json.loads(asked.read_text(encoding="utf-8"))):
            return _served()
    except (OSError, ValueError, NlpdeployError):
        pass  # not made yet, or by another version of the code
    if not make:
        raise NotRun("the BERT-base bundle isn't made yet; --prepare makes it")
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    print("making and exporting a BERT-base with random weights (first time: some minutes) ...", flush=True)
    with DATA.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["text"], *([text] for text in texts)])
    _run([sys.executable, "-m", "benchmarks.serve.wide", str(tokenizer_of), *wanted])
    asked.write_text(json.dumps(sorted(wanted)), encoding="utf-8")
    return _served()


def _served() -> Served:
    store = HOME / "model_store"
    found = Store(store).resolve(NAME)
    manifest = verified_manifest(found.path)
    return Served(store, NAME, found.version, found.path, manifest, CHECKPOINT, manifest.default_engine)


def with_engine(model: Served, engine: str | None) -> Served:
    """The same model on another engine, where it has that one ready."""
    import dataclasses

    return dataclasses.replace(model, engine=engine) if engine and model.has_ready(engine) else model


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise NotRun(f"{' '.join(command[2:4])} took longer than {SECONDS:.0f} s") from None
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise NotRun((said or [f"status {done.returncode}"])[-1][:300])


def main(tokenizer_of: str, *engines: str) -> None:
    """Make the checkpoint and export it.

    Raises:
        SystemExit: an engine did not pass.
    """
    from nlpdeploy.export.pipeline import export_checkpoint
    from nlpdeploy.export.request import ExportRequest

    _make_checkpoint(tokenizer_of)
    result = export_checkpoint(
        ExportRequest(
            checkpoint=CHECKPOINT,
            store=Store(HOME / "model_store"),
            name=NAME,
            engines=engines,
            data=DATA,
            text_column="text",
            # Random weights give nearly equal logits, of which no precision needs to tell the largest.
            tolerance=10.0,
            timing_seconds=8.0,
        )
    )
    if result.reference is None:
        sys.exit(f"{NAME}: {result.choice}")


def _make_checkpoint(tokenizer_of: str) -> None:
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    labels = {index: f"class {index}" for index in range(CLASSES)}
    config = BertConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        id2label=labels,
        label2id={name: index for index, name in labels.items()},
    )
    BertForSequenceClassification(config).save_pretrained(CHECKPOINT)
    tokenizer.save_pretrained(CHECKPOINT)


if __name__ == "__main__":
    main(*sys.argv[1:])
