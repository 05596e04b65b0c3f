"""A run's page: the verdict, its evidence and its provenance in one HTML file that needs nothing beside it."""

from __future__ import annotations

import math
import os
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.errors import StoreFailed, Unsupported
from .assess import lay_out
from .judgement import REPORT_FILE, Judgement
from .plan import Side
from .samples import read_samples

if TYPE_CHECKING:
    from .assess import Timeline


def write_report(run_dir: Path, judgement: Judgement) -> Path:
    """Write ``report.html`` into the run folder, whole or not at all, and return its path.

    Raises:
        Unsupported: jinja2 or matplotlib is missing.
        StoreFailed: the folder can't be written.
    """
    page = _render(run_dir, judgement)
    path = run_dir / REPORT_FILE
    partial = run_dir / f"{REPORT_FILE}.{os.getpid()}.partial"
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise StoreFailed("report", found=error, mend="make the run folder writable") from error
    return path


def _render(run_dir: Path, judgement: Judgement) -> str:
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup

        from . import figures
    except ImportError as error:
        raise Unsupported("report", found=error, mend="pip install 'nlpdeploy[loadtest]'") from error

    record = judgement.record
    sides: list[Side] = ["candidate", "baseline"] if record.plan.baseline_url else ["candidate"]
    lines: list[tuple[str, Timeline]] = [(side, lay_out(record, read_samples(run_dir, side), side)) for side in sides]
    if record.measured_s is not None:
        lines = [(side, line.before(judgement.judged_s)) for side, line in lines]
    targets = tuple(result.target for result in judgement.targets)
    drawn = {
        "time": figures.latency_over_time(lines[0][1], judgement.steady, targets),
        "distribution": figures.distribution(lines, targets),
        "lateness": figures.lateness(lines, judgement.health["candidate"].allowance_s),
    }
    if judgement.contrast is not None and judgement.contrast.ratio is not None:
        drawn["contrast"] = figures.contrast_by_pair(judgement.contrast)
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    result = judgement.to_json()
    return template.render(
        verdict=judgement.verdict.value,
        reasons=judgement.reasons,
        plan=record.plan,
        started=record.started,
        result=result,
        baseline=result["baseline"],
        order=" ".join("".join(letters) for letters in _groups([block.side[0].upper() for block in record.blocks])),
        tallies=[(side, judgement.tallies[side]) for side in sides],
        clients=[(side, judgement.health[side]) for side in sides],
        provenance=_provenance(judgement),
        figures={name: Markup(svg) for name, svg in drawn.items()},  # noqa: S704  (drawn here, from numbers)
        number=_number,
        percent=lambda share: f"{round(100 * share, 8):g} %",
    )


def _provenance(judgement: Judgement) -> list[tuple[str, Any]]:
    record, result = judgement.record, judgement.to_json()
    plan, server = record.plan, result["server"]
    rows = [
        ("server", server["url"] or plan.url),
        ("bundle", server["digest"] or "not told by the server"),
        ("engine", server["engine"] or "not told by the server"),
        ("data", f"{plan.data.path}, {plan.data.rows} rows, sha256 {plan.data.digest}"),
        ("golden answers", plan.data.golden or "none: only the form of answers was checked"),
        ("seed", plan.seed),
        ("client", f"{plan.workers} workers, at most {plan.max_in_flight} in flight, timeout {plan.timeout_s:g} s"),
        *((str(name), value) for name, value in record.machine.items()),
    ]
    baseline = result["baseline"]
    if baseline and plan.baseline_url:
        rows[3:3] = [
            ("baseline server", baseline["url"] or plan.baseline_url),
            ("baseline bundle", baseline["digest"] or "not told by the server"),
            ("baseline engine", baseline["engine"] or "not told by the server"),
        ]
    return rows


def _groups(letters: list[str]) -> list[list[str]]:
    return [letters[at : at + 4] for at in range(0, len(letters), 4)]


def _number(value: float | None) -> str:
    return "none" if value is None or not math.isfinite(value) else f"{value:.4g}"
