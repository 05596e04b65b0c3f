"""``nlpdeploy serve``: gRPC and HTTP on the chosen engines."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.errors import InvalidInput
from . import console, exits

if TYPE_CHECKING:
    from ..serve.settings import Settings


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = subparsers.add_parser("serve", help="gRPC and HTTP (Open Inference Protocol) on a bundle's engine")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME[:VERSION]",
        help="may be repeated (default: all of the store; none with --upstream)",
    )
    parser.add_argument("--engine", metavar="ID", help="default: each bundle's own")
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads of each lane (default: 1, and one engine on all cores if it pays)",
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="default: 127.0.0.1")
    parser.add_argument(
        "--grpc-port", type=console.host_port, default=8001, metavar="P", help="default: 8001; 0: any free one"
    )
    parser.add_argument(
        "--http-port", type=console.host_port, default=8000, metavar="P", help="default: 8000; 0: any free one"
    )
    _add_limits(parser)
    _add_upstreams(parser)
    parser.add_argument(
        "--explain", action="store_true", help="load the models, print what was resolved and why, and exit"
    )
    parser.add_argument(
        "--log-format", choices=("json", "text"), help="default: text on a terminal, JSON lines elsewhere"
    )
    parser.add_argument(
        "--metrics", choices=("on", "off"), default="on", help="off counts nothing and states only what is served"
    )
    parser.add_argument("--log-requests", action="store_true", help="log one line a request, without its texts")
    parser.add_argument(
        "--reference", type=Path, metavar="CKPT", help="answer with the untouched checkpoint in PyTorch: the baseline"
    )
    console.add_common(parser)
    parser.set_defaults(run=run)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    """What is taken from clients, and for how long; read in :func:`_settings`, so that a bad value is one line."""
    limits = parser.add_argument_group("limits", "durations are written 45ms, 1s, 2m")
    for option, default, metavar, text in (
        ("--max-message-mib", "32", "N", "largest request and answer"),
        ("--max-header-kib", "64", "N", "largest request line with headers, or gRPC metadata"),
        ("--max-connections", "4096", "N", "open connections of each front"),
        ("--slow-client", "60s", "D", "time to deliver a request, and to take an answer"),
        ("--max-queue-rows", "4096", "N", "texts that wait for one model, and of one request"),
        ("--max-queue-tokens", "262144", "N", "tokens that wait for one model, and of one request"),
        ("--default-timeout", "60s", "D", "deadline of a request that names none"),
        ("--grace", "10s", "D", "time for accepted work after SIGTERM"),
    ):
        limits.add_argument(option, default=default, metavar=metavar, help=f"{text} (default: {default})")


def _add_upstreams(parser: argparse.ArgumentParser) -> None:
    upstreams = parser.add_argument_group("upstreams", "models that TorchServe instances answer for")
    upstreams.add_argument(
        "--upstream",
        action="append",
        default=[],
        metavar="NAME=torchserve://H:P[,H:P…][/MODEL[/VERSION]]",
        help="serve NAME with the answers of these instances; may be repeated",
    )
    upstreams.add_argument(
        "--upstream-key-file",
        action="append",
        default=[],
        metavar="[H:P=]FILE",
        help="TorchServe's key_file.json, or a file with a token alone, of one instance or of all; may be repeated",
    )
    upstreams.add_argument(
        "--upstream-wait",
        default="60s",
        metavar="D",
        help="time for the first instance of each to answer, else exit 2 (default: 60s)",
    )
    upstreams.add_argument(
        "--upstream-requests", metavar="N", help="under way at one instance (default: as its archive says, else 16)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C; 0 once drained."""
    settings = _settings(arguments)
    predictors = _baseline(arguments, settings)
    if arguments.explain:
        return _explain(settings, predictors, as_json=arguments.json)
    from ..serve.app import run as serve

    return serve(settings, predictors)


def _explain(settings: Settings, predictors: list[Any], *, as_json: bool) -> int:
    from ..serve.explain import explain

    try:
        explanation = explain(settings, predictors)
    except (KeyboardInterrupt, SystemExit) as error:
        # A runtime may be loading a model in another thread: an interpreter that ends under it would crash.
        console.note("nlpdeploy serve: interrupted")
        os._exit(exits.INTERRUPTED if isinstance(error, KeyboardInterrupt) else exits.TERMINATED)
    if as_json:
        console.print_json(explanation.as_json())
    else:
        console.print_table(["what", "resolved", "why"], explanation.rows(), left=(0, 1, 2))
    return 0


def _baseline(arguments: argparse.Namespace, settings: Settings) -> list[Any]:
    """The checkpoint in PyTorch, if it was asked for."""
    if arguments.reference is None:
        return []
    if len(arguments.model) != 1 or arguments.engine:
        raise InvalidInput(
            "--reference", wanted="one --model NAME, whose tokenizer and labels it takes, and no --engine"
        )
    from ..bundle.store import Store
    from ..export.baseline import reference_predictor

    bundle = Store(settings.store).resolve(arguments.model[0])
    return [reference_predictor(bundle.path, arguments.reference, threads=arguments.threads)]


def _settings(arguments: argparse.Namespace) -> Settings:
    """The settings, every range checked.

    Raises:
        InvalidInput: the option, what was found, what is wanted.
    """
    from ..serve.admission import Limits
    from ..serve.served_model import Capacity
    from ..serve.settings import KIBIBYTE, MEBIBYTE, Settings, WireLimits, check
    from ..serve.upstream_spec import read_upstreams

    rows, tokens = _whole("--max-queue-rows", arguments), _whole("--max-queue-tokens", arguments)
    settings = Settings(
        store=console.store_root(arguments),
        models=tuple(arguments.model),
        upstreams=read_upstreams(arguments.upstream, arguments.upstream_key_file),
        upstream_wait=_duration("--upstream-wait", arguments),
        upstream_requests=_whole("--upstream-requests", arguments) if arguments.upstream_requests else None,
        engine=arguments.engine,
        threads=arguments.threads,
        host=arguments.host,
        grpc_port=arguments.grpc_port,
        http_port=arguments.http_port,
        wire=WireLimits(
            message_bytes=int(_number("--max-message-mib", arguments) * MEBIBYTE),
            header_bytes=int(_number("--max-header-kib", arguments) * KIBIBYTE),
            connections=_whole("--max-connections", arguments),
            slow_client=_duration("--slow-client", arguments),
        ),
        capacity=Capacity(limits=Limits(rows, tokens)),
        default_timeout=_duration("--default-timeout", arguments),
        grace=_duration("--grace", arguments),
        log_format=arguments.log_format,
        log_requests=arguments.log_requests,
        metrics=arguments.metrics == "on",
        json_line=arguments.json,
    )
    check(settings)
    return settings


def _given(option: str, arguments: argparse.Namespace) -> str:
    return str(getattr(arguments, option.removeprefix("--").replace("-", "_")))


def _duration(option: str, arguments: argparse.Namespace) -> float:
    from ..loadtest.targets import parse_duration

    text = _given(option, arguments)
    try:
        return parse_duration(text)
    except InvalidInput as error:
        raise InvalidInput(option, found=repr(text), wanted="a time with a unit, as 45ms, 1s or 2m") from error


def _number(option: str, arguments: argparse.Namespace) -> float:
    text = _given(option, arguments)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidInput(option, found=repr(text), wanted="a number")
    return value


def _whole(option: str, arguments: argparse.Namespace) -> int:
    text = _given(option, arguments)
    if not (text.isascii() and text.isdecimal()):
        raise InvalidInput(option, found=repr(text), wanted="a whole number")
    return int(text)
