"""``nlpdeploy predict``: answers on the terminal, no server."""

from __future__ import annotations

import argparse

from . import console


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = subparsers.add_parser("predict", help="answer texts on the terminal, no server")
    parser.add_argument("model", metavar="NAME[:VERSION]")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts, or - for one a line from standard input")
    parser.add_argument(
        "--pair", action="append", metavar="TEXT", help="second text, once for each TEXT of a pair model"
    )
    parser.add_argument("--engine", metavar="ID", help="default: the bundle's")
    console.add_common(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Load, answer, print."""
    from ..bundle.store import Store
    from ..serve.local import answer_here

    reference = Store(console.store_root(arguments)).resolve(arguments.model)
    texts = console.read_lines(arguments.texts)
    answers = answer_here(reference.path, texts, arguments.pair, engine=arguments.engine)
    if arguments.json:
        console.print_json(answers)
        return 0
    for answer in answers:
        label = f"{answer['label']}\t" if "label" in answer else ""
        print(f"{label}{answer['score']:.4f}")
    return 0
