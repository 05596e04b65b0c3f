"""The console script: parses, runs one command, maps errors to one line and an exit status."""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

from ..bundle.errors import NlpdeployError
from . import archive, demo, doctor, exits, export, loadtest, migrate, models, predict, serve, torchserve

REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE})
"""What the system may refuse to any program: no bug, wherever it comes up."""

COMMANDS = (export, serve, predict, archive, torchserve, migrate, loadtest, models, doctor, demo)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="nlpdeploy",
        description="From a trained NLP checkpoint to a proven endpoint: export, prove, serve, load-test.",
        epilog="exit status: 0 done; 1 a bug; 2 bad usage or input; 3 an engine asked for did not pass, or a "
        "package or device for it is missing; loadtest: 10 REFUTED, 11 INCONCLUSIVE, 12 INVALID; 130 interrupted",
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
        _drop_output()
        return 128 + signal.SIGPIPE
    except Exception as error:  # noqa: BLE001  (the last resort: a bug, shown whole)
        if isinstance(error, OSError) and error.errno in REFUSED:
            place = f"{error.filename}: " if error.filename else ""
            print(f"nlpdeploy {arguments.command}: {place}{error.strerror}", file=sys.stderr)
            _drop_output()
            return exits.USAGE
        traceback.print_exc()
        print(f"nlpdeploy {arguments.command}: this is a bug in nlpdeploy", file=sys.stderr)
        return exits.BUG


def entry_point() -> None:
    """The console script ``nlpdeploy``."""
    signal.signal(signal.SIGTERM, _terminate)
    if sys.stdout is None:  # closed by the caller, who wants the status alone
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (for the rest of the process)
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main())


def _drop_output() -> None:
    # The reader of our output left, or there is no room for it; Python must not complain again when it flushes at exit.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    # As an exception it unwinds: staging folders are removed, child processes ended.
    raise SystemExit(exits.TERMINATED)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("nlpdeploy")
    except PackageNotFoundError:
        return "unknown"
