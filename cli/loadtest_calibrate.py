"""``nlpdeploy loadtest calibrate``: what this machine's client can offer."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from ..bundle.errors import InvalidInput
from . import console


def add_parser(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action's parser."""
    parser = actions.add_parser("calibrate", help="measure this machine's client against a server that does nothing")
    parser.add_argument(
        "--transport", action="append", choices=("grpc", "http"), help="may be repeated (default: both)"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="Locust processes (default: 1)")
    parser.add_argument(
        "--seconds", type=console.positive, default=3.0, metavar="S", help="of traffic at each rate (default: 3)"
    )
    parser.add_argument("--to", metavar="R", help="the highest rate tried (default: 20000/s)")
    console.add_common(parser)
    parser.set_defaults(run=run_calibrate)


def run_calibrate(arguments: argparse.Namespace) -> int:
    """Search, keep what was found, print it."""
    from ..loadtest.calibrate import HIGHEST, LOWEST, TRANSPORTS, calibrate
    from ..loadtest.calibration import keep
    from ..loadtest.targets import parse_rate

    highest = HIGHEST if arguments.to is None else parse_rate(arguments.to)
    if highest < LOWEST:
        raise InvalidInput("--to", found=arguments.to, wanted=f"at least {LOWEST:g}/s")
    with console.Progress() as progress:
        found = [
            calibrate(transport, arguments.workers, arguments.seconds, progress.say, highest)
            for transport in arguments.transport or TRANSPORTS
        ]
    paths = [str(keep(one)) for one in found]
    if arguments.json:
        console.print_json({"clients": [asdict(one) | {"file": path} for one, path in zip(found, paths, strict=True)]})
        return 0
    headings = ["transport", "workers", "highest rate /s", "lateness p99 ms", "floor p50 ms", "floor p99 ms"]
    rows = [
        [one.transport, str(one.workers), f"{one.max_rate:.0f}"]
        + [f"{value:.3f}" for value in (one.lateness_p99_ms, one.floor_p50_ms, one.floor_p99_ms)]
        for one in found
    ]
    console.print_table(headings, rows)
    for one in found:
        console.note(f"{one.transport}: no higher rate, since {one.limit}")
    console.note("runs above these rates will be INVALID; kept in " + ", ".join(paths))
    return 0
