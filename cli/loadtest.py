"""``nlpdeploy loadtest``: drive traffic and judge it, or judge a stored run again."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.errors import InvalidInput, NotFound
from . import console, exits, loadtest_calibrate, loadtest_capacity

if TYPE_CHECKING:
    from ..loadtest.judgement import Judgement
    from ..loadtest.plan import Plan, TraceFile


MAX_SECONDS = 600.0
"""How long ``--until-decided`` goes on without ``--max-seconds``."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = subparsers.add_parser("loadtest", help="open-loop load test with a verdict")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_run(actions)
    loadtest_capacity.add_parser(actions)
    loadtest_calibrate.add_parser(actions)
    judge = actions.add_parser("judge", help="judge a stored run again, without traffic")
    judge.add_argument("run_dir", type=Path, nargs="+", metavar="RUN_DIR", help="several are judged as one run")
    judge.add_argument("--target", action="append", metavar="T", help="other targets than the run's own, e.g. p99=60ms")
    console.add_common(judge)
    judge.set_defaults(run=run_judge)


def _add_run(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = actions.add_parser("run", help="drive traffic and judge it")
    add_traffic(run)
    run.add_argument(
        "--rate", metavar="R", help="requests a second, e.g. 200 or 200/s; of replay: its own if not given"
    )
    length = run.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=console.positive, metavar="S", help="of traffic on each side")
    length.add_argument(
        "--until-decided",
        action="store_true",
        help="stop as soon as the verdict stands, at the latest after --max-seconds",
    )
    run.add_argument("--max-seconds", type=console.positive, metavar="S", help="of --until-decided (default: 600)")
    run.add_argument(
        "--baseline",
        metavar="URL|RUN_DIR",
        help="compare with this server, in randomised ABBA blocks, or, weaker, with a stored run",
    )
    run.add_argument("--baseline-key-file", type=Path, metavar="F", help="--key-file of the baseline")
    run.add_argument("--pairs", type=int, default=20, metavar="N", help="pairs of blocks with --baseline (default: 20)")
    run.set_defaults(run=run_load)


def add_traffic(parser: argparse.ArgumentParser) -> None:
    """The flags that say whom to ask what, of every command that drives traffic."""
    parser.add_argument("--url", required=True, help="grpc://, http:// or torchserve://HOST:PORT")
    parser.add_argument("--key-file", type=Path, metavar="F", help="TorchServe's key_file.json, where it wants a token")
    parser.add_argument("--model", required=True, metavar="NAME[:VERSION]")
    parser.add_argument("--data", required=True, type=Path, metavar="F", help="texts: CSV, TSV, JSONL or a text a line")
    parser.add_argument("--text-column", metavar="C")
    parser.add_argument("--pair-column", metavar="C")
    parser.add_argument(
        "--expected",
        type=Path,
        metavar="F",
        help="right labels: what `nlpdeploy predict NAME - --json` prints for the texts",
    )
    parser.add_argument(
        "--target",
        required=True,
        action="append",
        metavar="T",
        help="e.g. p95=45ms, mean=20ms, errors=0.1%%, rate=200/s; may be repeated",
    )
    parser.add_argument("--arrivals", default="poisson", choices=("poisson", "constant", "gamma", "ramp", "replay"))
    parser.add_argument(
        "--burstiness", type=console.positive, default=2.0, metavar="C", help="of gamma: 1 is Poisson (default: 2)"
    )
    parser.add_argument("--ramp-from", metavar="R", help="of ramp: the rate at the start (default: a tenth of --rate)")
    parser.add_argument("--trace", type=Path, metavar="F", help="of replay: times; --data F too: and their texts")
    parser.add_argument("--trace-column", metavar="C", help="of the times in --trace (default: timestamp)")
    parser.add_argument("--timeout", default="1s", metavar="D", help="a request unanswered for this long has failed")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of arrivals, payload order and drawn order")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="Locust processes")
    parser.add_argument(
        "--max-in-flight", type=int, default=1000, metavar="N", help="what is due above it counts as missed"
    )
    parser.add_argument("--expect-digest", metavar="SHA256", help="the bundle that must answer")
    parser.add_argument("--run-dir", type=Path, metavar="D", help="default: loadtest_runs/MODEL-TIME")
    parser.add_argument(
        "--yes-i-may-load-test",
        action="append",
        default=[],
        metavar="HOST",
        help="a host outside this machine and private networks that you are allowed to load; may be repeated",
    )
    console.add_common(parser)


def run_load(arguments: argparse.Namespace) -> int:
    """Check everything, drive the traffic, judge, write the report."""
    plan = make_plan(arguments)
    return drive_and_judge(plan, run_folder(arguments, plan), as_json=arguments.json)


def run_folder(arguments: argparse.Namespace, plan: Plan) -> Path:
    """``--run-dir``, or a new one named by model and time."""
    stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    return Path(arguments.run_dir or Path("loadtest_runs") / f"{plan.model}-{stamp}")


def drive_and_judge(plan: Plan, run_dir: Path, *, as_json: bool) -> int:
    """Run a plan; the status is the verdict's."""
    from ..loadtest.driver import run
    from ..loadtest.samples import read_record
    from ..loadtest.verdict import judge

    try:
        with console.Progress() as progress:
            run(plan, run_dir, progress=progress.say)
    except KeyboardInterrupt:
        # What was measured is kept, judged and marked; before any traffic there is nothing.
        with contextlib.suppress(NotFound):
            if read_record(run_dir).interrupted is not None:
                show(judge(run_dir), run_dir, as_json=as_json)
        raise
    return show(judge(run_dir), run_dir, as_json=as_json)


def run_judge(arguments: argparse.Namespace) -> int:
    """Judge one stored run, or several as one, by its own targets or others."""
    from ..loadtest.merge import judge_merged
    from ..loadtest.targets import parse_target
    from ..loadtest.verdict import judge

    targets = tuple(parse_target(text) for text in arguments.target or ()) or None
    first, *others = arguments.run_dir
    found = judge_merged(arguments.run_dir, targets) if others else judge(first, targets)
    # A run's own page stays the answer of that run to its own targets.
    return show(found, first, as_json=arguments.json, page=not targets and not others)


def show(judgement: Judgement, run_dir: Path, *, as_json: bool, page: bool = True) -> int:
    """Print the verdict, and write page and exports unless ``page`` is false; the status is the verdict's."""
    from ..loadtest.exports import write_exports
    from ..loadtest.report import write_report

    result = judgement.to_json()
    if page:
        write_report(run_dir, judgement)
        write_exports(run_dir, judgement)
    else:
        result["report"] = None
    if as_json:
        console.print_json(result)
    else:
        _print_verdict(result)
    return exits.VERDICT[result["verdict"]]


def make_plan(arguments: argparse.Namespace) -> Plan:
    """The plan, every flag checked before any traffic.

    Raises:
        InvalidInput, NotFound: a flag or the data file is unusable.
    """
    from ..bundle.names import split_spec
    from ..loadtest.payloads import read_payloads
    from ..loadtest.permission import check_permission
    from ..loadtest.plan import Plan, as_arrivals
    from ..loadtest.targets import parse_duration, parse_rate, parse_target

    if arguments.max_seconds and not arguments.until_decided:
        raise InvalidInput("--max-seconds", found="no --until-decided", wanted="both", mend="or give --seconds alone")
    targets = tuple(parse_target(text) for text in arguments.target)
    trace, rate, seconds = _arrivals(arguments)
    timeout = parse_duration(arguments.timeout)
    name, version = split_spec(arguments.model)
    is_server = bool(arguments.baseline) and "://" in arguments.baseline
    for url in (arguments.url, *([arguments.baseline] if is_server else [])):
        check_permission(url, arguments.yes_i_may_load_test)
    payloads = read_payloads(arguments.data, arguments.text_column, arguments.pair_column)
    return Plan(
        url=arguments.url,
        model=name,
        version=str(version) if version else "",
        data=replace(payloads.source, golden=str(arguments.expected)) if arguments.expected else payloads.source,
        targets=targets,
        rate=rate,
        seconds=seconds,
        until_decided=arguments.until_decided,
        arrivals=as_arrivals(arguments.arrivals),
        burstiness=arguments.burstiness,
        ramp_from=parse_rate(arguments.ramp_from) if arguments.ramp_from else rate / 10.0,
        trace=trace,
        timeout_s=timeout,
        seed=arguments.seed,
        workers=arguments.workers,
        max_in_flight=arguments.max_in_flight,
        expect_digest=arguments.expect_digest,
        baseline_url=arguments.baseline if is_server else None,
        baseline_run=None if is_server or not arguments.baseline else str(_stored_run(Path(arguments.baseline))),
        pairs=arguments.pairs if is_server else 0,
        key_file=_absolute(arguments.key_file),
        baseline_key_file=_absolute(arguments.baseline_key_file) if is_server else None,
        store=_absolute(console.store_root(arguments)),
    )


def _arrivals(arguments: argparse.Namespace) -> tuple[TraceFile | None, float, float]:
    """The trace, the rate and the seconds; a trace has its own of both."""
    from ..loadtest.targets import parse_rate
    from ..loadtest.trace import open_trace

    trace, own_rate = None, None
    if arguments.trace is not None:
        same = arguments.trace.resolve() == arguments.data.resolve()
        trace, own_rate = open_trace(arguments.trace, arguments.trace_column, texts=same)
    if arguments.rate is None and own_rate is None:
        raise InvalidInput("--rate", found="none", wanted="requests a second", mend="give --rate 200")
    rate = parse_rate(arguments.rate) if arguments.rate is not None else own_rate or 0.0
    seconds = (arguments.max_seconds or MAX_SECONDS) if arguments.until_decided else arguments.seconds
    if trace is not None:
        seconds = min(seconds or math.inf, trace.rows / rate)
    if seconds is None:
        raise InvalidInput("--seconds", found="none", wanted="a length", mend="give --seconds or --until-decided")
    return trace, rate, seconds


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def _stored_run(folder: Path) -> Path:
    """A folder that holds a run, or a refusal before any traffic."""
    from ..loadtest.samples import read_record

    read_record(folder)
    return folder.resolve()


def _print_verdict(result: dict[str, Any]) -> None:
    rows = [
        [target["metric"], _shown(target, "limit"), _shown(target, "observed"), target["verdict"]]
        for target in result["targets"]
    ]
    console.print_table(["target", "limit", "observed", "verdict"], rows, left=(0, 3))
    rate, server = result["rate"], result["server"]
    console.note(
        f"sent {result['sent']}, ok {result['ok']}, failed {result['failed']}, over the cap {result['over_cap']}, "
        f"unfinished {result['unfinished']}; offered {rate['offered']:g}/s, achieved {rate['achieved']:.1f}/s"
    )
    console.note(f"server: engine {server['engine']}, bundle {server['digest']}")
    for reason in result["reasons"]:
        console.note(f"- {reason}")
    console.note(f"run {result['run_dir']}")
    if result["report"]:
        console.note(f"report {result['report']}")
    print(result["verdict"])


def _shown(target: dict[str, Any], key: str) -> str:
    value, unit = target[key], target["unit"]
    if value is None:
        return ""
    number = f"{value:.1f}" if value >= 1.0 else f"{value:.3g}"
    return f"{number}{unit}" if unit == "/s" else f"{number} {unit}"
