"""The second workload: a checkpoint in the shape of BERT-base, made here with random weights, and its bundle.

``wide TOKENIZER_OF OUT`` makes the checkpoint in a process of its own, so that the benchmark's has no PyTorch. What its
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
from nlpdeploy.bundle.specs import EngineState
from nlpdeploy.bundle.store import Store

from ..subject import HERE, WORK
from .plans import NotRun, Served

NAME = "bert-base"
HOME = WORK / "bert-base"
CLASSES = 8
SECONDS = 1800.0


def wide_model(tokenizer_of: Path, texts: Sequence[str], wanted: Sequence[str], *, make: bool = True) -> Served:
    """The bundle, made unless it is there with the engines that are ``wanted``.

    Args:
        tokenizer_of: a checkpoint whose tokenizer it takes.
        texts: for the export's parity and timing.
        wanted: ids of engines; those that an export didn't come by are no reason for another one.
        make: make it; otherwise only look.

    Raises:
        NotRun: it isn't there, or can't be made.
    """
    store, asked = HOME / "model_store", HOME / "asked.json"
    try:
        before = set(json.loads(asked.read_text(encoding="utf-8")))
        if set(wanted) <= before:
            return _served(store)
    except (OSError, ValueError, NlpdeployError):
        pass  # not made yet, or by another version of the code
    if not make:
        raise NotRun("the BERT-base bundle isn't made yet; --prepare makes it")
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    print("making and exporting a BERT-base with random weights (first time: some minutes) ...", flush=True)
    checkpoint, data = HOME / "checkpoint", HOME / "texts.csv"
    with data.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["text"], *([text] for text in texts)])
    _run([sys.executable, "-m", "benchmarks.serve.wide", str(tokenizer_of), str(checkpoint)])
    export = [sys.executable, "-m", "nlpdeploy.cli", "export", str(checkpoint), "--name", NAME, "--store", str(store)]
    _run([*export, "--data", str(data), "--text-column", "text"])
    asked.write_text(json.dumps(sorted(wanted)), encoding="utf-8")
    return _served(store)


def _served(store: Path) -> Served:
    found = Store(store).resolve(NAME)
    manifest = verified_manifest(found.path)
    return Served(store, NAME, found.version, found.path, manifest, HOME / "checkpoint", manifest.default_engine)


def with_engine(model: Served, engine: str | None) -> Served:
    """The same model on another engine, where it has that one ready."""
    import dataclasses

    ready = {entry.id for entry in model.manifest.engines if entry.state is EngineState.READY}
    return dataclasses.replace(model, engine=engine) if engine in ready else model


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise NotRun(f"{' '.join(command[2:4])} took longer than {SECONDS:.0f} s") from None
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise NotRun((said or [f"status {done.returncode}"])[-1][:300])


def main(tokenizer_of: str, out: str) -> None:
    """Make the checkpoint."""
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
        # The usual 0.02 gives every text nearly the same logits, and a proof by labels nothing to see.
        initializer_range=0.04,
    )
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        model.classifier.weight.normal_(std=0.2)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
