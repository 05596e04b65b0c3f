"""``python -m benchmarks.run [SECTION …]``: measure on this machine, print tables, write JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nlpdeploy.bundle.errors import InvalidInput, NlpdeployError

from .results import machine, write_result
from .subject import WORK, Subject, add_subject_options, open_subject

_MOST_FRONT_TEXTS = 512


@dataclass(frozen=True)
class Section:
    """A part of the benchmarks that can be chosen.

    Attributes:
        says: one line on what it measures.
        measure: measures and prints; its result goes into the JSON file, its second value says whether all is well.
        unasked: whether it is part of a run that names no section.
    """

    says: str
    measure: Callable[[Subject, argparse.Namespace], tuple[object, bool]]
    unasked: bool = True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen sections; 0, or 1 where answers were wrong or missing, or 2 for wrong input."""
    options = _parser().parse_args(arguments)
    if options.list:
        print("\n".join(f"{name:<10}{section.says}" for name, section in SECTIONS.items()))
        return 0
    well = True
    try:
        names = options.section or [name for name, section in SECTIONS.items() if section.unasked]
        unknown = sorted(set(names) - set(SECTIONS))
        if unknown:
            raise InvalidInput("section", found=", ".join(unknown), wanted=f"some of {', '.join(SECTIONS)}")
        subject = open_subject(options)
        print(f"bundle {subject.name}/{subject.version}, {len(subject.texts)} texts of {subject.data}", flush=True)
        for name in names:
            before = machine()
            measured, right = SECTIONS[name].measure(subject, options)
            write_result(name, subject, before, measured)
            well = well and right
    except NlpdeployError as error:
        print(f"error: {error.line()}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0 if well else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("section", nargs="*", help="what to measure (default: all but memory; see --list)")
    parser.add_argument("--list", action="store_true", help="name the sections and end")
    parser.add_argument(
        "--seconds", type=float, default=30.0, metavar="S", help="measuring time of each part (default: 30)"
    )
    parser.add_argument("--engine", metavar="ID", help="what the front serves (default: the bundle's own)")
    parser.add_argument("--clients", type=int, default=16, metavar="N", help="in the closed loop (default: 16)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="draws texts and orders (default: 0)")
    add_subject_options(parser)
    return parser


def _engines(subject: Subject, options: argparse.Namespace) -> tuple[object, bool]:
    from .engines import measure_engines

    return measure_engines(subject, seconds=options.seconds, seed=options.seed), True


def _front(subject: Subject, options: argparse.Namespace) -> tuple[object, bool]:
    from nlpdeploy.runtime.predictor import load

    from .closed_loop import client_process
    from .messages import questions, right_labels
    from .overhead import measure_overhead
    from .server import serving
    from .throughput import measure_throughput

    rng = np.random.default_rng(options.seed)
    texts = [subject.texts[i] for i in rng.permutation(len(subject.texts))[:_MOST_FRONT_TEXTS]]
    predictor = load(subject.bundle, engine=options.engine, all_lanes=True)
    engine = predictor.engine.id
    asked = questions(subject.name, texts, right_labels(predictor, texts))
    with serving(subject, engine) as server, client_process(asked, WORK) as clients:
        overhead = measure_overhead(predictor, server, texts, asked, seconds=options.seconds, rng=rng)
        throughput = measure_throughput(
            predictor, server, clients, texts, clients=options.clients, seconds=options.seconds, rng=rng
        )
    predictor.close()
    bad = overhead.wrong + sum(front.errors + front.wrong for front in throughput.fronts.values())
    return {"engine": engine, "overhead": overhead, "throughput": throughput}, bad == 0


def _encode(subject: Subject, options: argparse.Namespace) -> tuple[object, bool]:
    from .encode import measure_encode

    return measure_encode(subject, seconds=options.seconds / 6, seed=options.seed), True


def _overload(subject: Subject, options: argparse.Namespace) -> tuple[object, bool]:
    from .overload import measure_overload

    engine = options.engine or subject.manifest.engine().id
    rng = np.random.default_rng(options.seed)
    texts = [subject.texts[i] for i in rng.permutation(len(subject.texts))[:_MOST_FRONT_TEXTS]]
    results = measure_overload(subject, engine, texts, seconds=options.seconds / 3, rng=rng)
    return results, all(result.balanced for result in results)


def _memory(subject: Subject, options: argparse.Namespace) -> tuple[object, bool]:
    from .memory import MOST_GROWTH, measure_memory

    engine = options.engine or subject.manifest.engine().id
    result = measure_memory(subject, engine, seed=options.seed)
    return result, result.failed == 0 and result.growth <= MOST_GROWTH


SECTIONS = {
    "engines": Section("every ready engine in process, against eager PyTorch", _engines),
    "front": Section("the front against the bare engine: overhead of a request, share of the throughput", _front),
    "encode": Section("the tokenizer", _encode),
    "overload": Section("twice the load that can be answered: what is still answered in time", _overload),
    "memory": Section("2,000 requests of mixed shapes: whether memory stays level (minutes)", _memory, unasked=False),
}


if __name__ == "__main__":
    sys.exit(main())
