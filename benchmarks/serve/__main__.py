"""``python -m benchmarks.serve``: our front against its peers on this machine; tables, ratios and a JSON file."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from types import FrameType

import numpy as np

from nlpdeploy.bundle.errors import InvalidInput, NlpdeployError
from nlpdeploy.bundle.specs import Activation, Task
from nlpdeploy.runtime.cores import usable_cores

from ..results import machine, write_result
from ..subject import Subject, add_subject_options, open_subject
from . import parts
from .bench import Bench, Options
from .contenders import ONNX, OPENVINO, PEERS, Contender, best_engine, set_up
from .environments import clean_up
from .lengths import text_of
from .loader import loading
from .plans import RUNS, TOKENIZER, NotRun, Served
from .reference import reference_labels
from .report import complaints, expected_ways, outcomes, print_all
from .two import pair
from .wide import NAME, wide_model, with_engine

PARTS = ("main", "mixed", "several", "rates", "metrics", "wide", "two")
WIDE_TOKENS, WIDE_TEXTS = 128, 48


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 0, or 1 where a row is missing or broke, 2 for wrong input, 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        wanted, peers, amounts = _parts(options.parts), _peers(options.peers), _options(options)
        return _run(open_subject(options), options, wanted, peers, amounts)
    except NlpdeployError as error:
        print(f"error: {error.line()}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        clean_up()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM ends the servers, too."""
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short: no new environments, fewer and shorter rounds")
    parser.add_argument("--prepare", action="store_true", help="set up peers and models, measure nothing")
    parser.add_argument("--parts", metavar="P,P", help=f"some of {','.join(PARTS)} (default: all)")
    keys = ",".join(peer.key for peer in PEERS)
    parser.add_argument("--peers", metavar="P,P", help=f"some of {keys}, or none (default: all but split)")
    parser.add_argument("--engine", metavar="ID", help="what we serve (default: the bundle's own)")
    parser.add_argument("--clients", default="1,4,16,64", metavar="N,N", help="closed loops (default: 1,4,16,64)")
    parser.add_argument("--rounds", type=int, metavar="N", help="of each measurement (default: 3, quick: 2)")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of a slice (default: 2, quick: 1)")
    parser.add_argument("--trial-seconds", type=float, metavar="S", help="length of a trial (default: 5, quick: 3)")
    parser.add_argument("--texts", type=int, default=1000, metavar="N", help="gone through (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="draws texts, orders, arrivals (default: 0)")
    add_subject_options(parser)
    return parser


def _run(
    subject: Subject, options: argparse.Namespace, wanted: Sequence[str], peers: Sequence[Contender], amounts: Options
) -> int:
    model = _served(subject, options.engine)
    rng = np.random.default_rng(options.seed)
    texts = [subject.texts[i] for i in rng.permutation(len(subject.texts))[: options.texts]]
    begun = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - begun:5.0f} s] {line}", flush=True)

    labels, unknown = reference_labels(model, texts)
    with loading(RUNS) as loader:
        bench = Bench(amounts, loader, texts, labels, say)
        if unknown:
            bench.out["labels as fp32"] = f"not known: {unknown}"
        ready = set_up(bench, peers, model, make=not options.quick)
        wide, wide_texts = _wide(bench, subject, model, wanted, make=not options.quick)
        if options.prepare:
            return _say_prepared(bench)
        before = machine()
        complete = False
        try:
            _measure(bench, model, wide, wide_texts, ready, wanted)
            complete = True
        finally:
            # What was measured before Ctrl-C is worth its time.
            judged = outcomes(bench)
            print_all(bench, judged, usable_cores())
            plain = _plain(bench, judged, complete, [peer for peer in ready if peer.package], model, wide)
            write_result("serve", subject, before, plain)
        missing = complaints(bench, expected_ways(peers, model))
        for line in missing:
            print(f"incomplete: {line}", file=sys.stderr)
        return 1 if missing else 0


def _measure(
    bench: Bench,
    model: Served,
    wide: Served | None,
    wide_texts: Sequence[str],
    peers: Sequence[Contender],
    wanted: Sequence[str],
) -> None:
    parts.main_part(bench, model, peers, wanted, RUNS / "logs")
    if wide is None:
        return
    if "wide" in wanted:
        parts.wide_part(bench, wide, wide_texts, peers, RUNS / "logs" / "wide")
    if "two" in wanted:
        first, second = pair(model, wide, RUNS / "pair")
        parts.two_part(bench, first, second, wide_texts, peers, RUNS / "logs" / "two")


def _served(subject: Subject, engine: str | None) -> Served:
    spec = subject.manifest.model
    if spec.task is not Task.CLASSIFICATION or spec.activation is not Activation.SOFTMAX:
        found = f"{spec.task}, {spec.activation}"
        raise InvalidInput(f"bundle {subject.name}", found=found, wanted="classification with softmax, as the peers do")
    chosen = engine or subject.manifest.default_engine
    if chosen not in subject.ready:
        raise InvalidInput("--engine", found=chosen, wanted=f"one of {', '.join(subject.ready)}")
    return Served(
        subject.store, subject.name, subject.version, subject.bundle, subject.manifest, subject.checkpoint, chosen
    )


def _options(options: argparse.Namespace) -> Options:
    quick = options.quick
    return Options(
        rounds=options.rounds or (2 if quick else 3),
        seconds=options.seconds or (1.0 if quick else 2.0),
        clients=_clients(options.clients),
        searches=1 if quick else 2,
        trials=7 if quick else 9,
        trial_seconds=options.trial_seconds or (3.0 if quick else 5.0),
        seed=options.seed,
    )


def _clients(text: str) -> tuple[int, ...]:
    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        found = ()
    if not found or found[0] < 1 or found[-1] > 256:
        raise InvalidInput("--clients", found=text, wanted="numbers from 1 to 256 with commas between them")
    return found


def _parts(text: str | None) -> list[str]:
    found = text.split(",") if text else list(PARTS)
    if unknown := sorted(set(found) - set(PARTS)):
        raise InvalidInput("--parts", found=", ".join(unknown), wanted=f"some of {', '.join(PARTS)}")
    return found


def _peers(text: str | None) -> list[Contender]:
    known = {peer.key: peer for peer in PEERS}
    usual = [peer.key for peer in PEERS if peer.usual]
    found = [] if text == "none" else text.split(",") if text else usual
    if unknown := sorted(set(found) - set(known)):
        raise InvalidInput("--peers", found=", ".join(unknown), wanted=f"none, or some of {', '.join(known)}")
    return [known[key] for key in found]


def _wide(
    bench: Bench, subject: Subject, model: Served, wanted: Sequence[str], *, make: bool
) -> tuple[Served | None, list[str]]:
    """The second model and its texts; noted with the reason where it can't be had."""
    if "wide" not in wanted and "two" not in wanted:
        return None, []
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model.bundle / TOKENIZER))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    texts = [
        text_of(WIDE_TOKENS, subject.texts, lambda text: len(tokenizer.encode(text).ids), skip=128 * i)
        for i in range(WIDE_TEXTS)
    ]
    try:
        theirs = {best_engine(engines, [model]) for engines in (OPENVINO, ONNX)}
        engines = sorted({model.engine, *theirs} & set(subject.ready))
        wide = wide_model(model.checkpoint, texts, engines, make=make)
    except NotRun as error:
        bench.out[NAME] = f"not run: {error}"
        bench.say(f"{NAME}: not run: {error}")
        return None, texts
    return with_engine(wide, model.engine), texts


def _say_prepared(bench: Bench) -> int:
    for name, why in bench.out.items():
        print(f"incomplete: {name}: {why}", file=sys.stderr)
    if not bench.out:
        print("all is set up")
    return 1 if bench.out else 0


def _plain(
    bench: Bench,
    judged: Sequence[object],
    complete: bool,
    peers: Sequence[Contender],
    model: Served,
    wide: Served | None,
) -> dict[str, object]:
    versions = {peer.package.name: peer.package.versions() for peer in peers if peer.package}
    return {
        "complete": complete,
        "options": asdict(bench.options),
        "engine": model.engine,
        "wide": None if wide is None else {"engine": wide.engine, "digest": wide.manifest.digest},
        "texts": len(bench.texts),
        "not_run": bench.out,
        "peers": versions,
        "facts": bench.facts,
        "wanted": judged,
        "samples": bench.book.plain(),
    }


if __name__ == "__main__":
    sys.exit(main())
