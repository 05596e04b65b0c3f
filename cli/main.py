"""The console script: parses, runs one command, maps errors to one line and an exit status."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

from ..bundle.errors import NlpdeployError
from . import demo, doctor, exits, export, loadtest, models, predict, serve

COMMANDS = (export, serve, predict, loadtest, models, doctor, demo)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="nlpdeploy",
        description="From a trained NLP checkpoint to a proven endpoint: export, prove, serve, load-test.",
        epilog="exit status: 0 done; 1 a bug; 2 bad usage or input; 3 an engine asked for did not pass; "
        "loadtest: 10 REFUTED, 11 INCONCLUSIVE, 12 INVALID; 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"nlpdeploy {_version()}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = build_parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except NlpdeployError as error:
        print(f"nlpdeploy {arguments.command}: {error.line()}", file=sys.stderr)
        return exits.exit_status(error)
    except KeyboardInterrupt:
        print(f"nlpdeploy {arguments.command}: interrupted", file=sys.stderr)
        return exits.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left; Python must not complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception:  # noqa: BLE001  (the last resort: a bug, shown whole)
        traceback.print_exc()
        print(f"nlpdeploy {arguments.command}: this is a bug in nlpdeploy", file=sys.stderr)
        return exits.BUG


def entry_point() -> None:
    """The console script ``nlpdeploy``."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(main())


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    # As an exception it unwinds: staging folders are removed, child processes ended.
    raise SystemExit(exits.TERMINATED)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("nlpdeploy")
    except PackageNotFoundError:
        return "unknown"
