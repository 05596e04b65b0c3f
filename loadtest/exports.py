"""A judged run in the forms that build servers read: JUnit XML of the verdict, statistics as Locust writes them."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO
from xml.etree import ElementTree as ET

import numpy as np

from ..bundle.compare import quantile
from ..bundle.errors import StoreFailed
from .certify import Verdict
from .judgement import Judgement, TargetResult
from .partial import samples_of
from .plan import Side
from .samples import FAILED, NEVER, Outcome, Samples

JUNIT_FILE, STATISTICS_FILE = "junit.xml", "nlpdeploy_stats.csv"

_PERCENTILES = (0.50, 0.66, 0.75, 0.80, 0.90, 0.95, 0.98, 0.99, 0.999, 0.9999, 1.0)
_COLUMNS = (
    "Type", "Name", "Request Count", "Failure Count", "Median Response Time", "Average Response Time",
    "Min Response Time", "Max Response Time", "Average Content Size", "Requests/s", "Failures/s",
)  # fmt: skip


def write_exports(run_dir: Path, judgement: Judgement) -> None:
    """Write ``junit.xml`` and ``nlpdeploy_stats.csv`` into the run folder, each whole or not at all.

    A test case is a target: REFUTED and INCONCLUSIVE are failures, as a target that isn't confirmed isn't met, and
    INVALID is an error, as nothing is said of the server. The statistics have a line a side, in Locust's columns, times
    in milliseconds from the schedule; a request without a good answer counts as a failure and has no time.

    Raises:
        StoreFailed: the folder can't be written.
    """
    _write(run_dir / JUNIT_FILE, lambda file: file.write(_junit(judgement)))
    _write(run_dir / STATISTICS_FILE, lambda file: _statistics(run_dir, judgement, file))


def _junit(judgement: Judgement) -> str:
    record, results = judgement.record, judgement.targets
    suite = ET.Element(
        "testsuite",
        name=f"nlpdeploy.loadtest.{record.plan.model}",
        timestamp=record.started,
        tests=str(len(results)),
        failures=str(sum(_element(result, judgement) == "failure" for result in results)),
        errors=str(sum(_element(result, judgement) == "error" for result in results)),
        time=f"{judgement.judged_s:.3f}",
    )
    properties = ET.SubElement(suite, "properties")
    server = judgement.to_json()["server"]
    told = [(name, server[name]) for name in ("url", "digest", "engine")]
    for name, value in (("verdict", judgement.verdict.value), ("seed", record.plan.seed), *told):
        ET.SubElement(properties, "property", name=name, value=str(value))
    for result in results:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=f"nlpdeploy.loadtest.{record.plan.model}",
            name=result.target.text,
            time=f"{judgement.judged_s:.3f}",
        )
        if kind := _element(result, judgement):
            verdict = judgement.verdict if kind == "error" else result.verdict
            problem = ET.SubElement(case, kind, type=verdict.value, message=result.reason)
            problem.text = "\n".join(judgement.reasons)
    ET.SubElement(suite, "system-out").text = "\n".join(judgement.reasons)
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _element(result: TargetResult, judgement: Judgement) -> str:
    """What JUnit calls a target's outcome; empty where it is met."""
    if judgement.verdict is Verdict.INVALID:
        return "error"
    return "" if result.verdict is Verdict.CONFIRMED else "failure"


def _statistics(run_dir: Path, judgement: Judgement, file: IO[str]) -> None:
    plan = judgement.record.plan
    sides: list[Side] = ["candidate", "baseline"] if plan.baseline_url else ["candidate"]
    writer = csv.writer(file)
    writer.writerow([*_COLUMNS, *(f"{100 * share:g}%" for share in _PERCENTILES)])
    urls: dict[Side, str | None] = {"candidate": plan.url, "baseline": plan.baseline_url}
    for side in sides:
        kind = (urls[side] or "").partition("://")[0]
        writer.writerow(
            [kind, f"{plan.model} {side}", *_line(samples_of(run_dir, judgement.record, side), judgement.judged_s)]
        )


def _line(samples: Samples, seconds: float) -> list[str]:
    latency = samples.latency
    good = latency[np.isfinite(latency)] * 1e3
    counts = samples.counts()
    failures = sum(counts[outcome] for outcome in (*FAILED, Outcome.OVER_CAP, Outcome.UNFINISHED))
    if not len(good):
        good = np.array([NEVER])
        percentiles = [NEVER] * len(_PERCENTILES)
    else:
        percentiles = [quantile(good, share) for share in _PERCENTILES]
    times = [percentiles[0], float(good.mean()), float(good.min()), float(good.max())]
    rates = [len(samples) / seconds, failures / seconds] if seconds else [NEVER, NEVER]
    shown = [_number(value) for value in (*times, NEVER, *rates, *percentiles)]
    return [str(len(samples)), str(failures), *shown]


def _number(value: float) -> str:
    return "N/A" if np.isnan(value) else f"{value:.3f}"


def _write(path: Path, fill: Callable[[IO[str]], object]) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            fill(file)
        partial.replace(path)
    except OSError as error:
        raise StoreFailed(path.name, found=error, mend="make the run folder writable") from error
