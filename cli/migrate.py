"""``nlpdeploy migrate``: a TorchServe archive of another maker -> a bundle, through the normal export."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from . import console, export


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = subparsers.add_parser("migrate", help="the checkpoint of a .mar -> proven, published bundle")
    parser.add_argument("archive", type=Path, metavar="FILE.mar", help="with a Transformers checkpoint inside")
    parser.add_argument("--keep", type=Path, metavar="D", help="new folder for the checkpoint, which is kept")
    export.add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Unpack the checkpoint and export it; no code of the archive is run."""
    from ..bundle.errors import InvalidInput
    from ..handlers.migrate import unpack_checkpoint

    if arguments.keep is not None and arguments.keep.exists():
        raise InvalidInput("--keep", found=f"{arguments.keep}, which is there", wanted="a folder to be made")
    with tempfile.TemporaryDirectory(prefix="nlpdeploy-migrate-") as work:
        target = arguments.keep or Path(work) / arguments.archive.name
        found = unpack_checkpoint(arguments.archive, target, labels_given=arguments.labels is not None)
        arguments.checkpoint = found.checkpoint
        arguments.name = arguments.name or export.default_name(Path(found.name))
        if found.labels is not None:
            arguments.labels = Path(work) / "labels.txt"
            arguments.labels.write_text("\n".join(found.labels) + "\n", encoding="utf-8")
        for note in found.notes:
            console.note(f"note: {note}")
        return export.run(arguments)
