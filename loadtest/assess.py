"""What a stretch of samples says about each target, as it stands: the certificates, and whether the stretch was steady.

Pure functions of samples; who answered and whether the books balance is :mod:`.validity`'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..bundle.compare import quantile
from ..bundle.errors import InvalidInput
from .certify import Certificate, Verdict, certify_failures, certify_mean, certify_share
from .judgement import TargetResult, describe, milliseconds
from .lengths import advise
from .plan import Block, Plan, Side
from .samples import Outcome, RunRecord, Samples
from .steady import Steady, steady_window, thirds
from .targets import RATE_TOLERANCE, Target

GROWTH = 0.02
"""Requests in flight that grow by more than this share of the arrivals say that the server can't keep up."""


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

    def before(self, seconds: float) -> Timeline:
        """The part that was due before."""
        kept = self.at < seconds
        return replace(
            self, samples=self.samples.where(kept), at=self.at[kept], ended=self.ended[kept], seconds=seconds
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
    if len(samples) and not set(np.unique(samples.block).tolist()) <= {block.index for block in blocks}:
        raise InvalidInput(
            "samples files", found=f"samples of blocks that {side} has not", wanted="those of the record"
        )
    shift = starts[samples.block]
    seconds = len(blocks) * record.plan.block_seconds
    return Timeline(samples, samples.scheduled + shift, samples.ended + shift, seconds, blocks)


def assess(
    plan: Plan, line: Timeline, targets: tuple[Target, ...], confidence: float | None = None
) -> tuple[Steady | None, tuple[TargetResult, ...]]:
    """Judge every target on one side's samples, with the plan's confidence or, at a look, another.

    Returns:
        The steady part (None without samples), and a result for each target.
    """
    if not len(line.samples):
        return None, tuple(TargetResult(target, None, Verdict.INVALID, None, "no samples") for target in targets)
    steady = steady_window(line.at, line.samples.latency, line.ended, line.seconds)
    return steady, tuple(
        _assess_target(plan, line, steady, target, confidence or plan.confidence) for target in targets
    )


def overall(results: tuple[TargetResult, ...]) -> Verdict:
    """REFUTED if any target is, CONFIRMED if all are; INCONCLUSIVE or INVALID otherwise."""
    verdicts = {result.verdict for result in results}
    for decisive in (Verdict.INVALID, Verdict.REFUTED, Verdict.INCONCLUSIVE):
        if decisive in verdicts:
            return decisive
    return Verdict.CONFIRMED


def saturated(line: Timeline, steady: Steady | None) -> bool:
    """Whether the server can't keep up: requests in flight grew by more than 2 % of the arrivals.

    What arrives faster than it is answered piles up: a server that is offered x % more than it can do adds x % of the
    arrivals to those in flight. Less than 2 % is not told from a busy moment.
    """
    return steady is not None and steady.growing and steady.rise > GROWTH * len(line.samples)


def unsteady(steady: Steady) -> str:
    """Why a run is not steady."""
    if steady.growing:
        return f"requests in flight grew by {steady.rise:.0f} over the run"
    return f"mean latencies of the run's thirds: {', '.join(milliseconds(mean) for mean in steady.windows_s)}"


def _assess_target(plan: Plan, line: Timeline, steady: Steady, target: Target, confidence: float) -> TargetResult:
    values = _values(plan, line, target)
    # A warm-up excuses slow answers, never missing ones.
    kept = (line.at >= steady.start_s) | (line.samples.outcome != Outcome.OK)
    observed, certificate = _certify(plan, target, values[kept], confidence)
    verdict = certificate.verdict
    numbers = describe(target, observed, certificate, plan.rate, confidence)
    reason = f"{target.text}: {verdict}, {numbers}"
    if verdict is not Verdict.REFUTED and not steady.stable and _could_pass_limit(line, values, steady, target):
        verdict = Verdict.INCONCLUSIVE
        reason = f"{target.text}: {verdict}, unstable at this rate ({unsteady(steady)}); {numbers}"
    advised_s = None
    if verdict is Verdict.INCONCLUSIVE and target.share is not None and not steady.growing:
        advised_s, words = _advise(plan, values[kept], target.share)
        reason = f"{reason}; {words}" if words else reason
    return TargetResult(target, observed, verdict, certificate, reason, advised_s)


def _advise(plan: Plan, latency: npt.NDArray[np.float64], share: float) -> tuple[float | None, str]:
    """How long a run should be, in seconds at this rate, and the words for it."""
    advice = advise(latency, share)
    seconds = float(advice.requests) / plan.rate
    if not math.isfinite(seconds):
        return None, ""
    if not advice.trusted:
        return seconds, f"too short to tell how slow requests cluster, which a run of {_rounded(seconds)} s would show"
    return seconds, f"nine in ten runs of {_rounded(seconds)} s confirm a service 10 % within its limit"


def _rounded(seconds: float) -> str:
    """Two digits, upwards: it is an estimate."""
    step = 10.0 ** math.floor(math.log10(seconds) - 1.0)
    return f"{math.ceil(seconds / step) * step:,.0f}" if seconds >= 10.0 else f"{math.ceil(seconds)}"


def _values(plan: Plan, line: Timeline, target: Target) -> npt.NDArray[np.float64]:
    """Of each request, what the target judges: latency, charged latency, or 0 and infinity for good and no answers."""
    samples = line.samples
    if target.metric == "mean":
        took = np.nan_to_num(samples.ended - samples.scheduled, nan=0.0)
        # A request without a good answer is charged the timeout, or what it took if that is more.
        return np.where(samples.outcome == Outcome.OK, took, np.maximum(took, plan.timeout_s))
    if target.is_latency:
        return samples.latency
    return np.where(samples.outcome == Outcome.OK, 0.0, np.inf)


def _certify(
    plan: Plan, target: Target, values: npt.NDArray[np.float64], confidence: float
) -> tuple[float, Certificate]:
    """The observed metric in the target's own unit, and its certificate."""
    if target.metric == "mean":
        return float(values.mean()), certify_mean(values, target.limit, confidence)
    if target.share is not None:
        return quantile(values, target.share), certify_share(values, target.limit, target.share, confidence)
    failed = np.isinf(values)
    if target.metric == "errors":
        return float(failed.mean()), certify_failures(failed, target.limit, confidence)
    # Arrivals are drawn, so their count says nothing about the server: what it made of them does.
    allowed = 1.0 - (1.0 - RATE_TOLERANCE) * target.limit / plan.rate
    return plan.rate * float(1.0 - failed.mean()), certify_failures(failed, allowed, confidence)


def _could_pass_limit(line: Timeline, values: npt.NDArray[np.float64], steady: Steady, target: Target) -> bool:
    """Whether an unsteady run may leave the limit behind if it goes on.

    A growing queue may. Windows that differ matter if the worst of them, moved on by their whole spread, is over the
    limit: a service at 2.0 to 2.4 ms needs no settling to be judged against 45 ms.
    """
    if steady.growing:
        return True
    if not target.is_latency:
        return False
    share = target.share
    windows = [
        math.nan if not len(part) else float(part.mean()) if share is None else quantile(part, share)
        for part in thirds(line.at, values, steady.start_s, line.seconds)
    ]
    # A window without arrivals gives NaN, one without answers infinity.
    return not all(map(math.isfinite, windows)) or 2 * max(windows) - min(windows) > target.limit
