"""``nlpdeploy archive``: a bundle -> a ``.mar`` for TorchServe."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import console

if TYPE_CHECKING:
    from ..handlers.settings import ModelSettings


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = subparsers.add_parser("archive", help="pack a bundle as a .mar that any TorchServe can run")
    parser.add_argument("model", metavar="NAME[:VERSION]")
    parser.add_argument("--output", type=Path, metavar="F", help="default: NAME-VERSION.mar in the store")
    add_packing(parser)
    console.add_common(parser)
    parser.set_defaults(run=run)


def add_packing(parser: argparse.ArgumentParser) -> None:
    """Add what ``archive`` and ``torchserve`` take of an archive's content and settings."""
    parser.add_argument("--engine", metavar="ID", help="default: the bundle's")
    parser.add_argument("--reference", type=Path, metavar="CKPT", help="the untouched checkpoint in eager PyTorch")
    parser.add_argument(
        "--no-vendor", action="store_true", help="leave nlpdeploy's code out: the workers have it installed"
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that share the cores (default: 1)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of an engine (default: the cores over the workers)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="most requests of a call (default: 8)")
    parser.add_argument(
        "--max-batch-delay", type=int, default=1, metavar="MS", help="wait of a first request for others (default: 1)"
    )
    parser.add_argument(
        "--response-timeout", type=int, default=60, metavar="S", help="then a silent worker is killed (default: 60)"
    )
    parser.add_argument(
        "--startup-timeout", type=int, default=300, metavar="S", help="for a worker's loading (default: 300)"
    )
    parser.add_argument("--queue-size", type=int, default=100, metavar="N", help="above it 503 (default: 100)")


def run(arguments: argparse.Namespace) -> int:
    """Pack and say where the file is."""
    from ..bundle.digest import file_digest
    from ..bundle.store import Store
    from ..handlers.archive import ArchiveRequest, pack, write_archive

    store = Store(console.store_root(arguments))
    reference = store.resolve(arguments.model)
    request = ArchiveRequest(
        reference, model_settings(arguments), arguments.engine, vendor=not arguments.no_vendor,
        checkpoint=arguments.reference,
    )  # fmt: skip
    packed = pack(request)
    path = write_archive(packed, store, arguments.output)
    result: dict[str, Any] = {
        "bundle": str(reference),
        "digest": packed.digest,
        "archive": str(path),
        "sha256": file_digest(path),
        "size_bytes": path.stat().st_size,
        "model_name": packed.name,
        "model_version": packed.version,
        "engine": packed.engine,
        "vendored": not arguments.no_vendor,
        "settings": packed.settings.for_torchserve(),
    }
    if arguments.json:
        console.print_json(result)
    else:
        console.note(f"{path}  {result['size_bytes'] / 1e6:.1f} MB, {packed.engine}, sha256 {result['sha256']}")
    return 0


def model_settings(arguments: argparse.Namespace) -> ModelSettings:
    """TorchServe's settings of the model, from the options."""
    from ..handlers.settings import ModelSettings

    return ModelSettings(
        workers=arguments.workers,
        batch_size=arguments.batch_size,
        max_batch_delay=arguments.max_batch_delay,
        response_timeout=arguments.response_timeout,
        startup_timeout=arguments.startup_timeout,
        queue_size=arguments.queue_size,
        threads=arguments.threads,
    ).checked()
