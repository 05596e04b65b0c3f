"""``nlpdeploy serve``: gRPC and HTTP on the chosen engines."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..bundle.errors import InvalidInput
from . import console

MEBIBYTE = 1024 * 1024
MOST_MEBIBYTES = 2047
"""gRPC counts a message's bytes in 31 bits."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = subparsers.add_parser("serve", help="gRPC and HTTP (Open Inference Protocol) on a bundle's engine")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME[:VERSION]",
        help="may be repeated (default: all of the store)",
    )
    parser.add_argument("--engine", metavar="ID", help="default: each bundle's own")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads of an engine (default: as export measured for a lone text)"
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="default: 127.0.0.1")
    parser.add_argument(
        "--grpc-port", type=console.host_port, default=8001, metavar="P", help="default: 8001; 0: any free one"
    )
    parser.add_argument(
        "--http-port", type=console.host_port, default=8000, metavar="P", help="default: 8000; 0: any free one"
    )
    parser.add_argument("--max-message-mib", type=console.positive, default=32.0, metavar="N", help="default: 32")
    parser.add_argument(
        "--grace", default="10s", metavar="D", help="time for accepted work after SIGTERM (default: 10s)"
    )
    parser.add_argument(
        "--reference", type=Path, metavar="CKPT", help="answer with the untouched checkpoint in PyTorch: the baseline"
    )
    console.add_common(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C; 0 once drained."""
    from ..loadtest.plan import parse_duration
    from ..serve.app import Settings
    from ..serve.app import run as serve

    cores = os.cpu_count() or 1
    if arguments.threads is not None and not 1 <= arguments.threads <= cores:
        raise InvalidInput("--threads", found=arguments.threads, wanted=f"1 to this machine's {cores}")
    if not 1.0 <= arguments.max_message_mib <= MOST_MEBIBYTES:
        wanted = f"1 to {MOST_MEBIBYTES}"
        raise InvalidInput("--max-message-mib", found=f"{arguments.max_message_mib:g}", wanted=wanted)
    settings = Settings(
        store=console.store_root(arguments),
        models=tuple(arguments.model),
        engine=arguments.engine,
        threads=arguments.threads,
        host=arguments.host,
        grpc_port=arguments.grpc_port,
        http_port=arguments.http_port,
        max_message_bytes=int(arguments.max_message_mib * MEBIBYTE),
        grace=parse_duration(arguments.grace),
        json_line=arguments.json,
    )
    if arguments.reference is None:
        return serve(settings)
    if len(arguments.model) != 1 or arguments.engine:
        raise InvalidInput(
            "--reference", wanted="one --model NAME, whose tokenizer and labels it takes, and no --engine"
        )
    from ..bundle.store import Store
    from ..export.baseline import reference_predictor

    bundle = Store(settings.store).resolve(arguments.model[0])
    return serve(settings, [reference_predictor(bundle.path, arguments.reference, threads=arguments.threads)])
