"""The comparison of a run with its baseline: which quantiles, from which samples, and what a claim such as
``p95=120ms->45ms`` says of the baseline. Intervals are :mod:`.contrast`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..bundle.compare import quantile
from .assess import Timeline, lay_out
from .certify import Verdict
from .contrast import LEAST_PAIRS, Contrast, contrast, contrast_runs, not_comparable
from .judgement import TargetResult, milliseconds
from .plan import Plan, Side
from .samples import RunRecord, read_record, read_samples
from .targets import Target
from .validity import ClientHealth, client_health, run_faults

COMPARED = ("p50", "p95", "p99")
"""Quantiles that are compared besides the targets' own; the first target's is the one in front, else p95."""

NEAR_CLAIM = 0.10
"""A baseline is as it was said to be if its interval comes within this share of it."""


def compared_metrics(targets: tuple[Target, ...]) -> tuple[str, ...]:
    """What is compared, the most important first."""
    promised = [target.metric for target in targets if target.share is not None]
    return tuple(dict.fromkeys([*promised, *(["p95"] if not promised else []), *COMPARED]))


def compare_sides(
    record: RunRecord,
    lines: Mapping[Side, Timeline],
    targets: tuple[Target, ...],
    baseline_health: ClientHealth,
    faults: list[str],
) -> tuple[Contrast, ...]:
    """Both sides of one run, pair of blocks by pair of blocks."""
    metrics = compared_metrics(targets)
    problem = "the run is invalid" if faults else None
    if late := baseline_health.problem():
        problem = problem or f"against the baseline the client was the bottleneck: {late}"
    latencies: dict[Side, dict[int, npt.NDArray[np.float64]]] = {"candidate": {}, "baseline": {}}
    for block in record.blocks:
        samples = lines[block.side].samples
        latencies[block.side][block.pair] = samples.latency[samples.block == block.index]
        if not len(latencies[block.side][block.pair]):
            problem = problem or f"block {block.index} has no arrivals; make the run longer"
    if len(latencies["baseline"]) < LEAST_PAIRS:
        problem = problem or f"{len(latencies['baseline'])} pairs of blocks were run, at least {LEAST_PAIRS} are needed"
    if problem:
        return tuple(not_comparable(metric, problem) for metric in metrics)
    found = []
    for metric in metrics:
        share = Target(metric, 1.0, metric).share or 0.0
        pairs = [
            (quantile(latencies["candidate"][pair], share), quantile(latencies["baseline"][pair], share))
            for pair in latencies["baseline"]
        ]
        found.append(contrast(metric, pairs))
    return tuple(found)


def compare_with_run(
    plan: Plan, line: Timeline, targets: tuple[Target, ...], baseline: Path, faults: list[str]
) -> tuple[Contrast, ...]:
    """A run against the candidate of a stored one.

    Raises:
        NotFound, InvalidInput: the folder holds no run.
    """
    metrics = compared_metrics(targets)
    record = read_record(baseline)
    samples = read_samples(baseline)
    other = lay_out(record, samples, "candidate")
    if record.measured_s is not None:
        other = other.before(record.measured_s)
    problem = "the run is invalid" if faults else _unlike(plan, record.plan)
    if not problem and (old := run_faults(record, {"candidate": samples})):
        problem = f"the stored run is invalid: {old[0]}"
    health = client_health(record.plan, other.blocks, other.samples, targets, record.measured_s)
    problem = problem or health.problem()
    if problem:
        return tuple(not_comparable(metric, problem) for metric in metrics)
    latencies = line.samples.latency, other.samples.latency
    return tuple(contrast_runs(metric, Target(metric, 1.0, metric).share or 0.0, *latencies) for metric in metrics)


def hold_claim(result: TargetResult, contrasts: tuple[Contrast, ...]) -> TargetResult:
    """The result of a target such as ``p95=120ms->45ms``, which promises something of the baseline too.

    It is only CONFIRMED if the baseline's interval comes within 10 % of what was said of it, and REFUTED if it doesn't.
    """
    said = result.target.was_s
    if said is None or result.verdict in (Verdict.REFUTED, Verdict.INVALID):
        return result
    found = next((each for each in contrasts if each.metric == result.target.metric), None)
    if found is None or found.baseline_low is None or found.baseline_high is None or found.baseline_s is None:
        return _with(result, Verdict.INCONCLUSIVE, "the baseline's can't be told")
    own = (
        f"the baseline's is {milliseconds(found.baseline_s)} "
        f"({milliseconds(found.baseline_low)} to {milliseconds(found.baseline_high)} with 99 %)"
    )
    if found.baseline_high < (1.0 - NEAR_CLAIM) * said or found.baseline_low > (1.0 + NEAR_CLAIM) * said:
        return _with(result, Verdict.REFUTED, f"{own}, not near {milliseconds(said)}")
    return _with(result, result.verdict, own)


def _with(result: TargetResult, verdict: Verdict, words: str) -> TargetResult:
    reason = result.reason.replace(f"{result.target.text}: {result.verdict}", f"{result.target.text}: {verdict}", 1)
    return replace(result, verdict=verdict, reason=f"{reason}; {words}")


def _unlike(plan: Plan, other: Plan) -> str | None:
    """Why two runs ask different questions."""
    for what, mine, theirs in (
        ("texts", plan.data.digest, other.data.digest),
        ("rate", plan.rate, other.rate),
        ("arrivals", plan.arrivals, other.arrivals),
    ):
        if mine != theirs:
            return f"the stored run had other {what}: {theirs}, this one {mine}"
    return None
