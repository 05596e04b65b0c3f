"""The judge: a pure function of a stored run, so that it can be judged again, by other targets, without traffic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..bundle.compare import quantile
from ..bundle.errors import InvalidInput
from .certify import Verdict, certify_mean, certify_share
from .contrast import Contrast, contrast, not_comparable
from .judgement import Judgement, TargetResult, describe, milliseconds
from .plan import Block, Plan, Side, Target, check_targets
from .samples import Outcome, RunRecord, Samples, read_record, read_samples
from .steady import Steady, steady_window, thirds
from .validity import RATE_SHORTFALL, ClientHealth, client_health, run_faults, tally

CONTRAST_SHARE = 0.95
"""Baselines are compared at the first percentile target's share, else at this one."""

__all__ = ["CONTRAST_SHARE", "Judgement", "Timeline", "judge", "lay_out"]


@dataclass(frozen=True)
class Timeline:
    """One side's blocks laid end to end.

    Attributes:
        samples: the side's samples.
        at: [n] seconds, block position times block length plus schedule; increasing.
        ended: [n] on the same clock, NaN where there is no end.
        seconds: their whole length.
        blocks: the side's blocks in order.
    """

    samples: Samples
    at: npt.NDArray[np.float64]
    ended: npt.NDArray[np.float64]
    seconds: float
    blocks: tuple[Block, ...]


def judge(run_dir: Path, targets: tuple[Target, ...] | None = None) -> Judgement:
    """Judge a stored run.

    Args:
        run_dir: the run folder.
        targets: other targets than the run's own.

    Raises:
        NotFound: no run there.
        InvalidInput: files that are no run's, or targets that it can't be judged by (a limit at or above its timeout).
    """
    record = read_record(run_dir)
    if targets is not None:
        check_targets(targets, record.plan.timeout_s)
    promised = targets or record.plan.targets
    sides: tuple[Side, ...] = ("candidate", "baseline") if record.plan.baseline_url else ("candidate",)
    samples = {side: read_samples(run_dir, side) for side in sides}
    lines = {side: lay_out(record, samples[side], side) for side in sides}
    health = {side: client_health(record.plan, lines[side].blocks, samples[side], promised) for side in sides}
    faults = run_faults(record, samples)
    faults.extend(
        f"the client offered the {side} {100 * health[side].shortfall:.1f} % less than scheduled, "
        f"at most {RATE_SHORTFALL:.0%} may be missing"
        for side in sides
        if health[side].shortfall > RATE_SHORTFALL and len(samples[side])
    )
    steady, results = _judge_targets(record.plan, lines["candidate"], promised)
    verdict = _overall(results)
    notes = [result.reason for result in results]
    late = health["candidate"].problem()
    if late and verdict is Verdict.CONFIRMED:
        notes.append(f"{late}; it was charged to the server, which met its targets all the same")
    elif late:
        faults.append(f"the client was the bottleneck: {late}")
    if faults:
        verdict = Verdict.INVALID
        results = tuple(replace(result, verdict=Verdict.INVALID) for result in results)
    compared = _compare(record, lines, promised, health["baseline"], faults) if "baseline" in lines else None
    return Judgement(
        verdict=verdict,
        reasons=(*faults, *notes, *_further_notes(lines["candidate"], steady, compared)),
        targets=results,
        record=record,
        tallies={side: tally(samples[side]) for side in sides},
        health=health,
        steady=steady,
        contrast=compared,
        run_dir=run_dir,
    )


def lay_out(record: RunRecord, samples: Samples, side: Side) -> Timeline:
    """Put one side's blocks end to end on one clock.

    Raises:
        InvalidInput: samples of a block that the record gives to the other side, or doesn't know.
    """
    blocks = tuple(block for block in record.blocks if block.side == side)
    starts = np.full(len(record.blocks), np.nan)
    for position, block in enumerate(blocks):
        starts[block.index] = position * record.plan.block_seconds
    if len(samples) and not set(samples.block.tolist()) <= {block.index for block in blocks}:
        raise InvalidInput(
            "samples files", found=f"samples of blocks that {side} has not", wanted="those of the record"
        )
    shift = starts[samples.block]
    seconds = len(blocks) * record.plan.block_seconds
    return Timeline(samples, samples.scheduled + shift, samples.ended + shift, seconds, blocks)


def _judge_targets(
    plan: Plan, line: Timeline, targets: tuple[Target, ...]
) -> tuple[Steady | None, tuple[TargetResult, ...]]:
    if not len(line.samples):
        return None, tuple(TargetResult(target, None, Verdict.INVALID, None, "no samples") for target in targets)
    steady = steady_window(line.at, line.samples.latency, line.ended, line.seconds)
    return steady, tuple(_judge_target(plan, line, steady, target) for target in targets)


def _judge_target(plan: Plan, line: Timeline, steady: Steady, target: Target) -> TargetResult:
    latency = line.samples.latency
    if target.share is None:
        latency = _charged(line.samples, plan.timeout_s)
    # A warm-up excuses slow answers, never missing ones.
    kept = latency[(line.at >= steady.start_s) | (line.samples.outcome != Outcome.OK)]
    if target.share is None:
        certificate, observed = certify_mean(kept, target.limit_s), float(kept.mean())
    else:
        certificate, observed = certify_share(kept, target.limit_s, target.share), quantile(kept, target.share)
    reason = f"{target.text}: {certificate.verdict}, {describe(target, observed, certificate, plan.rate)}"
    verdict = certificate.verdict
    if verdict is not Verdict.REFUTED and not steady.stable and _could_pass_limit(line, latency, steady, target):
        verdict = Verdict.INCONCLUSIVE
        reason = (
            f"{target.text}: {verdict}, unstable at this rate ({_unsteady(steady)}); "
            f"{describe(target, observed, certificate, plan.rate)}"
        )
    return TargetResult(target, observed, verdict, certificate, reason)


def _could_pass_limit(line: Timeline, latency: npt.NDArray[np.float64], steady: Steady, target: Target) -> bool:
    """Whether an unsteady run may leave the limit behind if it goes on.

    A growing queue may. Windows that differ matter if the worst of them, moved on by their whole spread, is over the
    limit: a service at 2.0 to 2.4 ms needs no settling to be judged against 45 ms.
    """
    if steady.growing:
        return True
    share = target.share
    values = [
        math.nan if not len(part) else float(part.mean()) if share is None else quantile(part, share)
        for part in thirds(line.at, latency, steady.start_s, line.seconds)
    ]
    # A window without arrivals gives NaN, one without answers infinity.
    return not all(map(math.isfinite, values)) or 2 * max(values) - min(values) > target.limit_s


def _charged(samples: Samples, timeout_s: float) -> npt.NDArray[np.float64]:
    """Latency for a mean: a request without a good answer is charged the timeout, or what it took if that is more."""
    took = np.nan_to_num(samples.ended - samples.scheduled, nan=0.0)
    return np.where(samples.outcome == Outcome.OK, took, np.maximum(took, timeout_s))


def _overall(results: tuple[TargetResult, ...]) -> Verdict:
    verdicts = {result.verdict for result in results}
    for decisive in (Verdict.INVALID, Verdict.REFUTED, Verdict.INCONCLUSIVE):
        if decisive in verdicts:
            return decisive
    return Verdict.CONFIRMED


def _compare(
    record: RunRecord,
    lines: Mapping[Side, Timeline],
    targets: tuple[Target, ...],
    baseline_health: ClientHealth,
    faults: list[str],
) -> Contrast:
    shares = [target for target in targets if target.share is not None]
    metric, share = (shares[0].metric, shares[0].share) if shares else ("p95", CONTRAST_SHARE)
    assert share is not None  # noqa: S101  (filtered above)
    if faults:
        return not_comparable(metric, "the run is invalid")
    late = baseline_health.problem()
    if late:
        return not_comparable(metric, f"against the baseline the client was the bottleneck: {late}")
    seconds: dict[Side, dict[int, float]] = {"candidate": {}, "baseline": {}}
    for block in record.blocks:
        samples = lines[block.side].samples
        latency = samples.latency[samples.block == block.index]
        if not len(latency):
            return not_comparable(metric, f"block {block.index} has no arrivals; make the run longer")
        seconds[block.side][block.pair] = quantile(latency, share)
    return contrast(metric, [(seconds["candidate"][pair], seconds["baseline"][pair]) for pair in seconds["baseline"]])


def _further_notes(line: Timeline, steady: Steady | None, compared: Contrast | None) -> list[str]:
    notes = []
    if steady is not None and steady.start_s > 0:
        left_out = int(((line.at < steady.start_s) & (line.samples.outcome == Outcome.OK)).sum())
        notes.append(f"the first {steady.start_s:.3g} s ({left_out} answers) were left out as warm-up")
    if steady is not None and not steady.stable:
        notes.append(f"not steady: {_unsteady(steady)}")
    if compared is not None and compared.candidate_s is not None and compared.baseline_s is not None:
        notes.append(
            f"{compared.metric} {milliseconds(compared.baseline_s)} -> {milliseconds(compared.candidate_s)}: the "
            f"baseline's is {compared.ratio:.2f} times the candidate's "
            f"({compared.low:.2f} to {compared.high:.2f} with 99 %): {compared.finding}"
        )
    elif compared is not None:
        notes.append(f"not comparable with the baseline: {compared.reason}")
    return notes


def _unsteady(steady: Steady) -> str:
    if steady.growing:
        return f"requests in flight grew by {steady.rise:.0f} over the run"
    return f"mean latencies of the run's thirds: {', '.join(milliseconds(mean) for mean in steady.windows_s)}"
