"""``nlpdeploy demo``: the main line on a real small model, from nothing.

Trains a classifier of bank customers' questions, exports it, serves it, asks it three questions through a client that
nobody here wrote, serves the untouched checkpoint behind the same front as the baseline, load-tests both and judges.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle.errors import EngineUnavailable, InvalidInput
from . import console, exits, interrupts

if TYPE_CHECKING:
    from ..export.demo_checkpoint import DemoCheckpoint
    from ..export.request import ExportResult
    from ..loadtest.targets import Target
    from .child import ChildServer

NAME = "demo"
PAIRS = 10
QUESTIONS = (
    "Somebody stole my wallet and my card was in it",
    "how much money do i have left on my account?",
    "I moved house last week, where do I tell you my new address",
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = subparsers.add_parser("demo", help="all of it on a real small model, from nothing")
    parser.add_argument(
        "--dir", type=Path, default=Path("demo_run"), metavar="D", help="work folder (default: demo_run)"
    )
    parser.add_argument("--target", default="p95=45ms", metavar="T", help="default: p95=45ms")
    parser.add_argument("--rate", default="40", metavar="R", help="requests a second (default: 40)")
    parser.add_argument("--seconds", type=console.positive, default=40.0, metavar="S", help="of traffic on each side")
    parser.add_argument(
        "--timing-seconds", type=console.positive, default=16.0, metavar="S", help="time spent on speed"
    )
    parser.add_argument("--fresh", action="store_true", help="train anew, though a checkpoint is there")
    console.add_common(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train, export, serve, ask, load-test; the status is that of the verdict."""
    from ..loadtest.payloads import read_payloads
    from ..loadtest.plan import Plan
    from .child import serving
    from .loadtest import drive_and_judge

    folder: Path = arguments.dir
    target, rate = _promise(arguments)
    checkpoint = _train(folder, arguments.fresh)
    result = _export(arguments, checkpoint)
    if result.reference is None:
        return exits.NOT_PROVEN
    root = result.reference.path.parent.parent.resolve()
    store = ["--store", str(root), "--model", NAME]
    console.note("\nserving the bundle, and the untouched checkpoint in PyTorch behind the same front")
    reference = [*store, "--reference", str(checkpoint.path)]
    with serving(store, folder / "server.log") as candidate, serving(reference, folder / "baseline.log") as baseline:
        _ask(candidate)
        data = read_payloads(checkpoint.test_csv, "text").source
        plan = Plan(
            url=f"grpc://{candidate.grpc}",
            baseline_url=f"grpc://{baseline.grpc}",
            model=NAME,
            data=data,
            targets=(target,),
            rate=rate,
            seconds=arguments.seconds,
            pairs=PAIRS,
            expect_digest=result.manifest.digest,
            store=str(root),
        )
        console.note(
            f"\nload test: {arguments.rate}/s on each in turn, {arguments.seconds:.0f} s a side, {arguments.target}"
        )
        return drive_and_judge(plan, folder / f"loadtest-{result.reference.version}", as_json=arguments.json)


def _promise(arguments: argparse.Namespace) -> tuple[Target, float]:
    """Target and rate, refused before anything takes time."""
    from ..loadtest.plan import Plan
    from ..loadtest.targets import check_targets, parse_rate, parse_target

    target, rate = parse_target(arguments.target), parse_rate(arguments.rate)
    check_targets((target,), Plan.timeout_s, rate, baseline=True)
    return target, rate


def _train(folder: Path, fresh: bool) -> DemoCheckpoint:
    from ..export.demo_checkpoint import find_demo_checkpoint, train_demo_checkpoint

    checkpoint = None if fresh else find_demo_checkpoint(folder / "checkpoint")
    if checkpoint:
        console.note(f"{checkpoint.path} is there from an earlier run; --fresh trains it anew")
    else:
        console.note("training a classifier of bank customers' questions on MiniLM-L6")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(
                f"work folder {folder}",
                found=error.strerror,
                wanted="a folder that can be made and written",
                mend="give another with --dir",
            ) from None
        with console.Progress() as progress:
            checkpoint = train_demo_checkpoint(folder / "checkpoint", progress=progress)
    console.note(
        f"checkpoint {checkpoint.path}, test accuracy {checkpoint.accuracy:.3f} ({checkpoint.seconds:.0f} s)\n"
    )
    return checkpoint


def _export(arguments: argparse.Namespace, checkpoint: DemoCheckpoint) -> ExportResult:
    from ..bundle.store import Store
    from ..export.pipeline import export_checkpoint
    from ..export.request import ExportRequest
    from .export import show_result

    request = ExportRequest(
        checkpoint=checkpoint.path,
        store=Store(arguments.store or arguments.dir / "model_store"),
        name=NAME,
        data=checkpoint.test_csv,
        text_column="text",
        label_column="intent",
        timing_seconds=arguments.timing_seconds,
    )
    with interrupts.heeded() as heed, console.Progress(heed) as progress:
        result = export_checkpoint(request, progress)
    show_result(result, as_json=False)
    return result


def _ask(server: ChildServer) -> None:
    """Three questions through ``tritonclient``."""
    try:
        import numpy as np
        import tritonclient.grpc as triton
    except ImportError:
        raise EngineUnavailable("the demo asks through tritonclient", mend="pip install 'nlpdeploy[demo]'") from None
    texts = triton.InferInput("text", [len(QUESTIONS)], "BYTES")
    texts.set_data_from_numpy(np.array([question.encode() for question in QUESTIONS], dtype=object))
    with triton.InferenceServerClient(server.grpc) as client:
        answer = client.infer(NAME, [texts], client_timeout=30)
        labels, scores = answer.as_numpy("label"), answer.as_numpy("score")
    console.note("tritonclient asks over gRPC:")
    for question, label, score in zip(QUESTIONS, labels, scores, strict=True):
        console.note(f"  {question!r} -> {label.decode()} ({score:.3f})")
