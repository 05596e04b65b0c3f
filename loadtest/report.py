"""A run's page: the verdict, its evidence and its provenance in one HTML file that needs nothing beside it."""

from __future__ import annotations

import math
import os
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.compare import quantile
from ..bundle.errors import StoreFailed, Unsupported
from .assess import lay_out
from .calibration import from_json
from .judgement import REPORT_FILE, Judgement
from .partial import samples_of
from .plan import Plan, Side
from .stages import stage_times
from .validity import short

if TYPE_CHECKING:
    from .assess import Timeline


_SHOWN = (0.5, 0.9, 0.95, 0.99, 0.999, 1.0)


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
    lines: list[tuple[str, Timeline]] = [
        (side, lay_out(record, samples_of(run_dir, record, side), side)) for side in sides
    ]
    if record.measured_s is not None:
        lines = [(side, line.before(judgement.judged_s)) for side, line in lines]
    targets = tuple(result.target for result in judgement.targets)
    drawn = {
        "time": figures.latency_over_time(lines[0][1], judgement.steady, targets),
        "distribution": figures.distribution(lines, targets, _inflation(judgement), record.plan.confidence),
        "rate": figures.rate_and_in_flight(lines[0][1]),
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
        figures={name: Markup(_labelled(svg, _LABELS[name])) for name, svg in drawn.items()},  # noqa: S704  (our own)
        number=_number,
        latencies=_latencies(lines),
        stages=[(side, stage) for side in sides for stage in stage_times(run_dir, record, side)],
        percent=lambda share: f"{round(100 * share, 8):g} %",
    )


_LABELS = {
    "time": "Latency of each answer over the run; the table of targets has the numbers",
    "distribution": "Share of requests answered within a time; the table of latencies has the numbers",
    "rate": "Requests due and answered a second, and requests in flight, over the run",
    "lateness": "How late sends left; the table of the client has the numbers",
    "contrast": "Ratio of each pair of blocks; the table of quantiles has the numbers",
}


def _labelled(svg: str, label: str) -> str:
    """A figure that a screen reader names as one thing, instead of spelling its strokes."""
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _inflation(judgement: Judgement) -> float:
    """The strongest clustering that was measured on any target."""
    known = [result.certificate.inflation for result in judgement.targets if result.certificate is not None]
    return max([one for one in known if one is not None and math.isfinite(one)], default=1.0)


def _latencies(lines: list[tuple[str, Timeline]]) -> list[tuple[str, list[float]]]:
    """A side's p50 to p99.9 and longest in milliseconds, failures counted as infinite."""
    found = []
    for side, line in lines:
        latency = 1e3 * line.samples.latency
        values = [quantile(latency, share) for share in _SHOWN] if len(latency) else [math.nan] * len(_SHOWN)
        found.append((side, values))
    return found


def _provenance(judgement: Judgement) -> list[tuple[str, Any]]:
    record, result = judgement.record, judgement.to_json()
    plan, server = record.plan, result["server"]
    rows = [
        ("server", server["url"] or plan.url),
        ("bundle", server["digest"] or "not told by the server"),
        ("engine", server["engine"] or "not told by the server"),
        ("data", f"{plan.data.path}, {plan.data.rows} rows, sha256 {plan.data.digest}"),
        ("golden answers", _golden(plan, record.machine.get("golden"))),
        ("seed", plan.seed),
        ("client", f"{plan.workers} workers, at most {plan.max_in_flight} in flight, timeout {plan.timeout_s:g} s"),
        *((f"payload sent, {side}", f"sha256 {digest}") for side, digest in judgement.payloads.items()),
        *(
            (f"tokens of a text, {side}", _tokens(told))
            for side, told in (record.machine.get("tokens_by_side") or {}).items()
        ),
        ("client's limit", _limit(record.machine.get("client"))),
        *_usage(judgement),
        *_metrics(record.machine.get("server_metrics")),
        *((str(name), value) for name, value in record.machine.items() if name not in _TOLD_APART),
    ]
    baseline = result["baseline"]
    if baseline and plan.baseline_url:
        rows[3:3] = [
            ("baseline server", baseline["url"] or plan.baseline_url),
            ("baseline bundle", baseline["digest"] or "not told by the server"),
            ("baseline engine", baseline["engine"] or "not told by the server"),
        ]
    return rows


_TOLD_APART = ("tokens_by_side", "client", "server_usage", "server_metrics", "golden")


def _golden(plan: Plan, kept: Any) -> str:
    if kept:
        return f"{kept['rows']} of {plan.data.rows} texts are golden samples of bundle {short(kept['digest'])}"
    return plan.data.golden or "none: only the form of answers was checked"


def _usage(judgement: Judgement) -> list[tuple[str, str]]:
    """Processor time a request and memory of the servers that run on the client's machine."""
    rows = []
    for side, spent in (judgement.record.machine.get("server_usage") or {}).items():
        sent = sum(books.sent for known, books in judgement.tallies.items() if known == side)
        each = f"{1e3 * spent['cpu_s'] / sent:.3g} ms a request" if sent else "no requests"
        rows.append((f"processor time, {side}", f"{spent['cpu_s']:.2f} s, {each}"))
        rows.append((f"memory, {side}", f"{spent['rss_mib']:.0f} MiB resident"))
    return rows


def _metrics(told: Any) -> list[tuple[str, str]]:
    """Queue and engine calls, as the servers count them themselves."""
    rows = []
    for side, found in (told or {}).items():
        queue = f"requests waited {_number(found['queue_ms'])} ms on average, {found['refused']:.0f} were refused"
        each = f"{_number(found['rows_per_call'])} texts and {_number(found['call_ms'])} ms"
        padding = f"{_number(100 * (found['padding'] or 0.0))} % of it padding"
        calls = f"{found['engine_calls']:.0f}, on average of {each}, {padding}"
        rows += [(f"queue, {side}", queue), (f"engine calls, {side}", calls)]
    return rows


def _tokens(told: Any) -> str:
    if not told:
        return "not told by the server"
    asked = f"{told['texts']} of {told['of']} texts" if told["texts"] < told["of"] else f"all {told['of']} texts"
    return f"mean {told['mean']:.1f}, p50 {told['p50']:.0f}, p95 {told['p95']:.0f}, as the server counts {asked}"


def _limit(stored: Any) -> str:
    known = from_json(stored)
    if known is None:
        return "not calibrated: nlpdeploy loadtest calibrate"
    floor = f"floor p50 {known.floor_p50_ms:.3g} ms, p99 {known.floor_p99_ms:.3g} ms"
    return f"{known.max_rate:.0f}/s over {known.transport} ({known.limit}), {floor}; calibrated {known.when}"


def _groups(letters: list[str]) -> list[list[str]]:
    return [letters[at : at + 4] for at in range(0, len(letters), 4)]


def _number(value: float | None) -> str:
    return "none" if value is None or not math.isfinite(value) else f"{value:.4g}"
