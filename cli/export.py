"""``nlpdeploy export``: checkpoint -> published bundle, with a table of engines."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.errors import InvalidInput
from . import console, exits, interrupts

if TYPE_CHECKING:
    from ..export.request import ExportRequest, ExportResult


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = subparsers.add_parser("export", help="checkpoint -> proven, published bundle")
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="folder of a fine-tuned Transformers classifier")
    add_options(parser)
    parser.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what every export can be told."""
    parser.add_argument("--name", help="model name in the store (default: the folder's name)")
    parser.add_argument(
        "--engines", default="auto", help="auto (default), or ids with commas, e.g. onnx-int8,openvino-f32"
    )
    parser.add_argument(
        "--gpu",
        metavar="SM",
        help="also build TensorRT fp16 engines for GPUs elsewhere, e.g. sm86,sm89,sm120; no GPU needed",
    )
    parser.add_argument(
        "--gpu-workspace", type=console.positive, default=4096.0, metavar="MIB",
        help="most scratch memory of a kernel of an engine for a GPU, in MiB (default: 4096)",
    )  # fmt: skip
    parser.add_argument("--task", help="classification, multi-label or regression, where the checkpoint doesn't tell")
    parser.add_argument("--activation", choices=("softmax", "sigmoid", "none"), help="another output function")
    parser.add_argument("--weights", metavar="FILE", help="which weight file, where two differ")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="labels, one a line, instead of the checkpoint's")
    parser.add_argument("--pair", action="store_true", help="inputs are pairs of texts")
    parser.add_argument(
        "--data", type=Path, metavar="F", help="your texts: CSV, TSV or JSONL (default: built-in sentences)"
    )
    parser.add_argument("--text-column", metavar="C", help="column of texts (default: text)")
    parser.add_argument("--label-column", metavar="C", help="column of labels; without it accuracy is not measured")
    parser.add_argument("--pair-column", metavar="C", help="column of second texts")
    parser.add_argument("--max-accuracy-drop", type=float, default=0.005, metavar="X", help="default: 0.005")
    parser.add_argument("--tolerance", type=console.positive, metavar="X", help="largest logit error, for all engines")
    parser.add_argument(
        "--timing-seconds", type=console.positive, default=24.0, metavar="S", help="time spent on speed"
    )
    parser.add_argument("--no-promote", action="store_true", help="publish, but leave the serving version as it is")
    console.add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Export and print; the status is 3 where an engine asked for did not pass, or none passed at all."""
    request = _request(arguments)
    from ..export.pipeline import export_checkpoint

    with interrupts.heeded() as heed, console.Progress(heed) as progress:
        result = export_checkpoint(request, progress)
    show_result(result, as_json=arguments.json)
    return 0 if result.reference else exits.NOT_PROVEN


def show_result(result: ExportResult, *, as_json: bool) -> None:
    """The table and where things are; with ``as_json`` the object on standard output instead."""
    from ..export.report import half_notes
    from .engine_table import print_engines

    if as_json:
        console.print_json(result_json(result))
        return
    for text in result.notes:
        console.note(f"note: {text}")
    print_engines(result.manifest)
    for entry in result.manifest.engines:
        if "build" in entry.options:
            console.note(f"{entry.id}: {entry.options['build']}; {entry.options['layers']}")
    for text in half_notes(result.manifest.engines):
        console.note(text)
    console.note(result.choice)
    if result.reference:
        console.note(f"published {result.reference} ({result.seconds:.0f} s)  {result.reference.path}")
    else:
        console.note(f"nothing published ({result.seconds:.0f} s); the evidence is kept")
    console.note(f"report {result.report}")


def result_json(result: ExportResult) -> dict[str, Any]:
    """The object of ``export --json``."""
    from .engine_table import engine_json, reference_json

    manifest, reference = result.manifest, result.reference
    return {
        "bundle": str(reference) if reference else None,
        "path": str(reference.path) if reference else None,
        "digest": manifest.digest or None,
        "task": str(manifest.model.task),
        "labels": list(manifest.model.labels),
        "max_length": manifest.model.max_length,
        "activation": str(manifest.model.activation),
        "seconds": round(result.seconds, 2),
        "default_engine": manifest.default_engine or None,
        "choice": result.choice,
        "reference": reference_json(manifest),
        "engines": [engine_json(entry) for entry in manifest.engines],
        "notes": list(result.notes),
        "report": str(result.report),
    }


def _request(arguments: argparse.Namespace) -> ExportRequest:
    from ..bundle.names import check_name
    from ..bundle.store import Store
    from ..export.request import ExportRequest

    for option in ("text_column", "label_column", "pair_column"):
        if getattr(arguments, option) and arguments.data is None:
            raise InvalidInput(f"--{option.replace('_', '-')}", found="no --data", wanted="--data F beside it")
    if not 0.0 <= arguments.max_accuracy_drop <= 1.0:
        raise InvalidInput("--max-accuracy-drop", found=arguments.max_accuracy_drop, wanted="a share from 0 to 1")
    engines = () if arguments.engines == "auto" else tuple(part.strip() for part in arguments.engines.split(","))
    return ExportRequest(
        checkpoint=arguments.checkpoint,
        store=Store(console.store_root(arguments)),
        name=check_name(arguments.name or default_name(arguments.checkpoint)),
        engines=engines,
        gpu=() if arguments.gpu is None else tuple(part.strip().lower() for part in arguments.gpu.split(",")),
        gpu_workspace_bytes=int(arguments.gpu_workspace * 2**20),
        task=arguments.task,
        activation=arguments.activation,
        weights=arguments.weights,
        labels=arguments.labels,
        pair=arguments.pair,
        data=arguments.data,
        text_column=arguments.text_column,
        label_column=arguments.label_column,
        pair_column=arguments.pair_column,
        max_accuracy_drop=arguments.max_accuracy_drop,
        tolerance=arguments.tolerance,
        timing_seconds=arguments.timing_seconds,
        promote=not arguments.no_promote,
    )


def default_name(checkpoint: Path) -> str:
    """A model name from the checkpoint's folder: of ``runs/intent/checkpoint-500`` it is ``intent``.

    Raises:
        InvalidInput: nothing of it can be a name.
    """
    folder = checkpoint.resolve()
    if re.fullmatch(r"checkpoint-\d+", folder.name):
        folder = folder.parent
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.name).strip("-._")[:64]
    if not name:
        raise InvalidInput("model name", found=repr(folder.name), mend="give one with --name")
    return name
