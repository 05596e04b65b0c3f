"""``make bench-verdict``: how often the load test's verdict is wrong, and how often it is able to say something.

Nothing is measured on this machine: servers are simulated, and the product's own rule judges them; ``--real N`` alone
drives traffic. See docs/verdict.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np

from nlpdeploy.runtime.cores import usable_cores

from .results import RESULTS, print_table
from .verdict_cells import SIMULATED, ErrorRates, Power, Rates, error_rates, power_at_advised_length, whole_judgement
from .verdict_pairs import Comparisons, compare_servers
from .verdict_real import compare_with_itself, server
from .verdict_servers import SERVERS

UTILISATIONS = (0.5, 0.6, 0.7, 0.8, 0.9)
SHARES = (0.95, 0.99)
LENGTHS = (1000, 2000, 4000, 8000, 16000)
WHOLE_LENGTH = 4000
MOST_FALSE_PASSES = 0.035
MEDIAN_FALSE_PASSES = 0.015
LEAST_POWER = 0.90
LEAST_COVERAGE = 0.95
COMPARED = [(utilisation, speed) for utilisation in (0.3, 0.5, 0.7) for speed in (1.0, 1.1)]
SEED = 20_260

Cell = tuple[str, float]
Result = TypeVar("Result")
_SERVERS = {kind(0.5).name: kind for kind in SERVERS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all cells, print the tables, write the result; the status is 1 if a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--runs",
        type=int,
        default=4000,
        help="of each cell of the error rates; half as many of whole judgements and comparisons",
    )
    parser.add_argument("--requests", type=float, default=1e7, help="simulated for the power of each server")
    real = parser.add_argument_group("instead of all that", "a real server compared with itself, by whole load tests")
    real.add_argument("--real", type=int, metavar="N", help="comparisons, 35 s each; none is simulated then")
    real.add_argument("--first-seed", type=int, default=1, metavar="N", help="those after it count up")
    real.add_argument("--url", help="of the server; without it, one that does nothing")
    real.add_argument("--model", default="intent", help="its name there")
    real.add_argument("--data", type=Path, metavar="F", help="texts, one a line")
    options = parser.parse_args(arguments)
    if options.real:
        with server(options.url, options.model, options.data) as named:
            return compare_with_itself(named, options.real, options.first_seed)
    started = time.perf_counter()
    cells = [(name, utilisation) for utilisation in reversed(UTILISATIONS) for name in _SERVERS]
    with ProcessPoolExecutor(usable_cores()) as pool:
        powers = {cell: pool.submit(_power, cell, options.requests, options.runs) for cell in cells}
        errors = {cell: pool.submit(_errors, cell, options.runs) for cell in cells}
        wholes = {cell: pool.submit(_whole, cell, options.runs // 2) for cell in cells}
        pairs = [pool.submit(compare_servers, *each, options.runs // 2, SEED + at) for at, each in enumerate(COMPARED)]
        rates, whole, power = _results(errors), _results(wholes), _results(powers)
        compared = [future.result() for future in pairs]
    seconds = time.perf_counter() - started
    _print(rates, whole, power)
    rows = [
        [f"{each.utilisation:g}", f"{each.speed:g}", *(f"{100 * share:.1f}" for share in _findings(each))]
        for each in compared
    ]
    print_table(
        "candidate against baseline, 20 pairs of blocks of 600 requests, p95",
        ["utilisation", "times faster", "% hold 1", "% faster", "% slower"],
        rows,
    )
    summary = summarise(rates, whole, power, compared)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"\n{options.runs} runs a cell, {seconds:.0f} s on {usable_cores()} cores, "
        f"{used.ru_utime + used.ru_stime:.0f} s of processor time"
    )
    for name, value in summary.items():
        print(f"{name:42} {value:.2%}")
    _write(options.runs, seconds, summary, compared, rates, whole, power)
    broken = broken_bounds(summary)
    for text in broken:
        print(f"BROKEN: {text}", file=sys.stderr)
    return 1 if broken else 0


def summarise(
    rates: dict[Cell, dict[float, ErrorRates]],
    whole: dict[Cell, Rates],
    power: dict[Cell, Power],
    compared: Sequence[Comparisons],
) -> dict[str, float]:
    """The figures that are bounded, and the rates of false refutations beside them."""
    at_limit = [cell for found in rates.values() for each in found.values() for cell in each.fixed["at the limit"]]
    above = [cell for found in rates.values() for each in found.values() for cell in each.fixed["5 % above"]]
    below = [cell for found in rates.values() for each in found.values() for cell in each.fixed["5 % below"]]
    sequential = [each.sequential["at the limit"] for found in rates.values() for each in found.values()]
    return {
        "false passes at the limit, worst cell": max(cell.confirmed for cell in at_limit),
        "false passes at the limit, median cell": median(cell.confirmed for cell in at_limit),
        "the same, until decided, worst cell": max(cell.confirmed for cell in sequential),
        "the same, until decided, median cell": median(cell.confirmed for cell in sequential),
        "the same, whole judgement, worst cell": max(cell.confirmed for cell in whole.values()),
        "false passes 5 % above, worst cell": max(cell.confirmed for cell in above),
        "false refutations at the limit, worst": max(cell.refuted for cell in at_limit),
        "false refutations 5 % below, worst": max(cell.refuted for cell in below),
        "power at the advised length, worst cell": min(cell.confirmed for cell in power.values()),
        "a server against itself: intervals with 1": min(each.holds_one for each in compared if each.speed == 1.0),
        "a server 10 % faster: found": min(each.faster for each in compared if each.speed > 1.0),
    }


def broken_bounds(summary: dict[str, float]) -> list[str]:
    """What is worse than promised."""
    found = [
        f"{name}: {value:.2%}, at most {MOST_FALSE_PASSES:.1%}"
        for name, value in summary.items()
        if "worst" in name and "power" not in name and value > MOST_FALSE_PASSES
    ]
    found += [
        f"{name}: {value:.2%}, at most {MEDIAN_FALSE_PASSES:.1%}"
        for name, value in summary.items()
        if "median" in name and value > MEDIAN_FALSE_PASSES
    ]
    wanted = {
        "power at the advised length, worst cell": LEAST_POWER,
        "a server against itself: intervals with 1": LEAST_COVERAGE,
        "a server 10 % faster: found": LEAST_POWER,
    }
    return found + [
        f"{name}: {summary[name]:.1%}, at least {least:.0%}" for name, least in wanted.items() if summary[name] < least
    ]


def _findings(each: Comparisons) -> tuple[float, float, float]:
    return each.holds_one, each.faster, each.slower


def _seed(cell: Cell, purpose: int) -> int:
    return SEED + 1000 * purpose + 100 * list(_SERVERS).index(cell[0]) + round(100 * cell[1])


def _errors(cell: Cell, runs: int) -> dict[float, ErrorRates]:
    return error_rates(_SERVERS[cell[0]](cell[1]), SHARES, LENGTHS, runs, _seed(cell, 1))


def _whole(cell: Cell, runs: int) -> Rates:
    return whole_judgement(_SERVERS[cell[0]](cell[1]), SHARES[0], WHOLE_LENGTH, runs, _seed(cell, 2))


def _power(cell: Cell, requests: float, runs: int) -> Power:
    return power_at_advised_length(_SERVERS[cell[0]](cell[1]), SHARES[0], requests, _seed(cell, 3), runs)


def _results(futures: dict[Cell, Future[Result]]) -> dict[Cell, Result]:
    return {cell: future.result() for cell, future in sorted(futures.items())}


def _print(rates: dict[Cell, dict[float, ErrorRates]], whole: dict[Cell, Rates], power: dict[Cell, Power]) -> None:
    heads = ["server", *(f"{utilisation:g}" for utilisation in UTILISATIONS)]
    for share in SHARES:
        for margin in SIMULATED:
            rows = [
                [name, *(_pair([cell.confirmed for cell in rates[name, u][share].fixed[margin]]) for u in UTILISATIONS)]
                for name in _SERVERS
            ]
            lengths = f"{LENGTHS[0]:,} to {LENGTHS[-1]:,} requests"
            print_table(
                f"p{100 * share:g} {margin}: % confirmed, least to most over {lengths}; by utilisation", heads, rows
            )
    rows = [
        [name, *(f"{100 * rates[name, u][SHARES[0]].sequential['at the limit'].confirmed:.1f}" for u in UTILISATIONS)]
        for name in _SERVERS
    ]
    print_table("p95 at the limit, until decided: % confirmed", heads, rows)
    rows = [[name, *(f"{100 * whole[name, u].confirmed:.1f}" for u in UTILISATIONS)] for name in _SERVERS]
    print_table(
        f"p95 at the limit, whole judgement of {WHOLE_LENGTH:,} requests, half as many runs: % confirmed", heads, rows
    )
    rows = [[name, *(_advised(power[name, u]) for u in UTILISATIONS)] for name in _SERVERS]
    print_table("p95 10 % below, runs of the advised length: % confirmed (requests)", heads, rows)


def _pair(values: list[float]) -> str:
    return f"{100 * min(values):.1f}-{100 * max(values):.1f}"


def _advised(cell: Power) -> str:
    return f"{100 * cell.confirmed:.0f} ({cell.length // 1000:,}k)"


def _write(
    runs: int, seconds: float, summary: dict[str, float], compared: Sequence[Comparisons], *tables: dict[Cell, Any]
) -> None:
    now = datetime.now(UTC)
    names = ("error_rates", "whole_judgement", "power")
    measured = {
        name: [{"server": cell[0], "utilisation": cell[1], **_plain(found)} for cell, found in table.items()]
        for name, table in zip(names, tables, strict=True)
    }
    result = {
        "name": "verdict",
        "time": now.isoformat(timespec="seconds"),
        "machine": {"cores": usable_cores(), "python": platform.python_version(), "numpy": np.__version__},
        "runs": runs,
        "seconds": seconds,
        "summary": summary,
        "measured": {**measured, "comparisons": [asdict(each) for each in compared]},
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y%m%dT%H%M%SZ}-verdict.json"
    path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    print(f"-> {os.path.relpath(path)}")


def _plain(found: Any) -> dict[str, Any]:
    if isinstance(found, dict):
        return {f"p{100 * share:g}": asdict(each) for share, each in found.items()}
    return asdict(found)


if __name__ == "__main__":
    sys.exit(main())
