"""``nlpdeploy loadtest capacity``: the highest rate that meets the targets."""

from __future__ import annotations

import argparse
from typing import Any

from ..bundle.errors import InvalidInput
from . import console, exits


def add_parser(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action's parser."""
    from .loadtest import add_traffic

    parser = actions.add_parser("capacity", help="find the highest rate that meets the targets")
    add_traffic(parser)
    parser.add_argument("--from", dest="lowest", default="10/s", metavar="R", help="the lowest rate (default: 10/s)")
    parser.add_argument("--to", dest="highest", default="10000/s", metavar="R", help="the highest (default: 10000/s)")
    parser.add_argument(
        "--precision", default="10%", metavar="P", help="how far apart the rates met and missed may end (default: 10%%)"
    )
    parser.add_argument("--probes", type=int, default=10, metavar="N", help="rates tried at most (default: 10)")
    parser.add_argument(
        "--probe-seconds", type=console.positive, default=120.0, metavar="S", help="of one rate at most (default: 120)"
    )
    parser.set_defaults(run=run_capacity)


def run_capacity(arguments: argparse.Namespace) -> int:
    """Check everything, try rates, write the curve; the status is the verdict's."""
    from ..loadtest.capacity import Search
    from ..loadtest.probing import CAPACITY_FILE, PICTURE_FILE, find_capacity, to_json
    from ..loadtest.targets import parse_rate
    from .loadtest import make_plan, run_folder

    search = Search(
        parse_rate(arguments.lowest), parse_rate(arguments.highest), _precision(arguments.precision), arguments.probes
    )
    if search.lowest > search.highest or search.probes < 1:
        found = f"{search.probes} rates from {search.lowest:g}/s to {search.highest:g}/s"
        raise InvalidInput("capacity", found=found, wanted="at least one rate, --from below --to")
    # A probe is a run until it is decided, at a rate of the search's.
    arguments.rate, arguments.seconds, arguments.baseline = arguments.lowest, None, None
    arguments.until_decided, arguments.max_seconds = True, arguments.probe_seconds
    plan = make_plan(arguments)
    if any(target.metric == "rate" for target in plan.targets):
        raise InvalidInput("target of a capacity", found="a rate", wanted="latency or errors", mend="the rate is found")
    folder = run_folder(arguments, plan)
    with console.Progress() as progress:
        capacity, probes = find_capacity(plan, search, folder, progress=progress.say)
    result = to_json(plan.targets, search, capacity, list(probes))
    result |= {"run_dir": str(folder), "curve": str(folder / CAPACITY_FILE), "picture": str(folder / PICTURE_FILE)}
    if arguments.json:
        console.print_json(result)
    else:
        _print(result)
    return exits.VERDICT[result["verdict"]]


def _precision(text: str) -> float:
    number = text.strip().removesuffix("%")
    try:
        share = float(number) / 100.0
    except ValueError:
        share = 0.0
    if not text.strip().endswith("%") or not 0.01 <= share <= 1.0:
        raise InvalidInput("precision", found=text, wanted="1% to 100%", mend="write --precision 10%")
    return share


def _print(result: dict[str, Any]) -> None:
    rows = [
        [
            f"{probe['rate']:g}/s",
            *(_ms(probe[f"{name}_ms"]) for name in ("p50", "p95", "p99")),
            f"{probe['in_flight']:.1f}",
            f"{100 * probe['failed']:.2g} %",
            f"{probe['verdict']}{', saturated' if probe['saturated'] else ''}",
        ]
        for probe in result["probes"]
    ]
    console.print_table(["rate", "p50", "p95", "p99", "in flight", "failed", "verdict"], rows, left=(0, 6))
    console.note(f"- {result['reasons'][0]}")
    console.note(f"curve {result['curve']}, picture {result['picture']}")
    print(result["verdict"])


def _ms(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f} ms" if value >= 1.0 else f"{value:.3g} ms"
