"""What is measured: a bundle, the checkpoint it came from and texts. By default the demo's, made on the spot."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path

from nlpdeploy.bundle.digest import verified_manifest
from nlpdeploy.bundle.errors import InvalidInput, NlpdeployError
from nlpdeploy.bundle.manifest import Manifest
from nlpdeploy.bundle.specs import EngineState
from nlpdeploy.bundle.store import Store

HERE = Path(__file__).resolve().parent
WORK = HERE / ".work"
NAME = "demo"
MOST_TEXTS = 2000


@dataclass(frozen=True)
class Subject:
    """A bundle with its checkpoint and texts.

    Attributes:
        store: the store's folder.
        name: the model's name there.
        version: the version measured.
        bundle: that version's folder.
        manifest: its manifest, verified.
        checkpoint: the folder that the bundle came from; it need not exist.
        data: name of the file of texts.
        texts: the texts, in the order of the file.
    """

    store: Path
    name: str
    version: int
    bundle: Path
    manifest: Manifest
    checkpoint: Path
    data: str
    texts: tuple[str, ...]

    @property
    def ready(self) -> list[str]:
        """Ids of the engines that may serve."""
        return [entry.id for entry in self.manifest.engines if entry.state is EngineState.READY]

    def plain(self) -> dict[str, object]:
        """What identifies it, for a result's file."""
        return {
            "bundle": f"{self.name}/{self.version}",
            "digest": self.manifest.digest,
            "created": self.manifest.created,
            "weights": dict(self.manifest.source.weights),
            "data": self.data,
            "texts": len(self.texts),
        }


def add_subject_options(parser: argparse.ArgumentParser) -> None:
    """The options that :func:`open_subject` reads."""
    group = parser.add_argument_group("what is measured (default: the demo's model, made in benchmarks/.work)")
    group.add_argument("--store", type=Path, metavar="DIR", help="a store with a bundle of yours")
    group.add_argument("--model", metavar="NAME[:VERSION]", help="the bundle in it")
    group.add_argument("--checkpoint", type=Path, metavar="CKPT", help="default: where the bundle came from")
    group.add_argument("--data", type=Path, metavar="F", help="texts: CSV, TSV or JSONL (default: built-in sentences)")
    group.add_argument("--text-column", metavar="C", help="column of texts (default: text)")
    group.add_argument("--rebuild", action="store_true", help="train and export the demo's model anew")


def open_subject(arguments: argparse.Namespace) -> Subject:
    """The bundle that the options name, or the demo's.

    Raises:
        InvalidInput: ``--store`` without ``--model`` or the reverse, or a model that reads pairs of texts.
        NlpdeployError: the bundle or the texts can't be read, or the demo's model can't be made.
    """
    if (arguments.store is None) != (arguments.model is None):
        raise InvalidInput("--store and --model", wanted="both, or neither")
    if arguments.store is None:
        store, name, checkpoint, data = _demo(arguments.rebuild)
    else:
        store, name, checkpoint, data = arguments.store, arguments.model, arguments.checkpoint, arguments.data
    found = Store(store).resolve(name)
    manifest = verified_manifest(found.path)
    if manifest.model.pair:
        raise InvalidInput(f"bundle {name}", found="a model of text pairs", wanted="a model of single texts")
    from nlpdeploy.export.corpus import built_in_corpus, read_corpus

    corpus = (
        read_corpus(data, manifest.model, text_column=arguments.text_column, limit=MOST_TEXTS)
        if data
        else built_in_corpus(manifest.model)
    )
    return Subject(
        store=store,
        name=manifest.name,
        version=found.version,
        bundle=found.path,
        manifest=manifest,
        checkpoint=checkpoint or Path(manifest.source.path),
        data=corpus.name,
        texts=corpus.texts,
    )


def _demo(rebuild: bool) -> tuple[Path, str, Path, Path]:
    """Store, name, checkpoint and texts of the demo's model, trained and exported unless that is done already."""
    if rebuild:
        shutil.rmtree(WORK, ignore_errors=True)
    store, checkpoint, data = WORK / "model_store", WORK / "checkpoint", WORK / "checkpoint-test.csv"
    try:
        verified_manifest(Store(store).resolve(NAME).path)
    except NlpdeployError:  # not made yet, or by another version of the code
        _make_demo(store, checkpoint, data)
    return store, NAME, checkpoint, data


def _make_demo(store: Path, checkpoint: Path, data: Path) -> None:
    from nlpdeploy.cli.console import Progress
    from nlpdeploy.export.demo_checkpoint import train_demo_checkpoint
    from nlpdeploy.export.pipeline import export_checkpoint
    from nlpdeploy.export.request import ExportRequest

    WORK.mkdir(parents=True, exist_ok=True)
    with Progress() as progress:
        if not checkpoint.is_dir():
            train_demo_checkpoint(checkpoint, progress=progress)
        request = ExportRequest(
            checkpoint=checkpoint,
            store=Store(store),
            name=NAME,
            data=data,
            text_column="text",
            label_column="intent",
        )
        export_checkpoint(request, progress)
