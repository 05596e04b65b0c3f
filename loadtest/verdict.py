"""The judge: a pure function of a stored run, so that it can be judged again, by other targets, without traffic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from .assess import Timeline, assess, lay_out, overall, saturated, unsteady
from .certify import Verdict
from .comparison import compare_sides, compare_with_run, hold_claim
from .contrast import NOT_COMPARABLE, Contrast, not_comparable
from .judgement import Judgement, TargetResult, milliseconds
from .looks import Look, draw_looks
from .partial import complete_part, samples_of
from .plan import Plan, Side
from .samples import Outcome, RunRecord, read_record, read_samples
from .steady import Steady
from .targets import Target, check_targets
from .validity import RATE_SHORTFALL, ClientHealth, client_health, payload_digest, run_faults, tally


def judge(run_dir: Path, targets: tuple[Target, ...] | None = None) -> Judgement:
    """Judge a stored run.

    Args:
        run_dir: the run folder.
        targets: other targets than the run's own.

    Raises:
        NotFound: no run there.
        InvalidInput: files that are no run's, or targets that it can't be judged by (a limit at or above its timeout).
    """
    record = complete_part(read_record(run_dir))
    plan = record.plan
    if targets is not None:
        check_targets(targets, plan.timeout_s, plan.rate, baseline=plan.has_baseline)
    promised = targets or plan.targets
    sides: tuple[Side, ...] = ("candidate", "baseline") if plan.baseline_url else ("candidate",)
    everything = {side: samples_of(run_dir, record, side) for side in sides}
    faults = run_faults(record, everything)
    lines = {side: lay_out(record, samples, side) for side, samples in everything.items()}
    steady, results, lines["candidate"], looks = _look(record, lines["candidate"], promised)
    early = plan.until_decided or (record.measured_s is not None and len(record.blocks) == 1)
    measured = lines["candidate"].seconds if early else None
    health = {side: client_health(plan, line.blocks, line.samples, promised, measured) for side, line in lines.items()}
    faults.extend(
        f"the client offered the {side} {100 * health[side].shortfall:.1f} % less than scheduled, "
        f"at most {RATE_SHORTFALL:.0%} may be missing"
        for side in sides
        if health[side].shortfall > RATE_SHORTFALL and len(lines[side].samples)
    )
    compared = _compare(record, lines, promised, health, faults)
    results = tuple(hold_claim(result, compared) for result in results)
    verdict, notes = overall(results), [result.reason for result in results]
    if record.interrupted and record.measured_s is not None:
        notes.insert(0, _interrupted(record, verdict))
        verdict = Verdict.INCONCLUSIVE if verdict is Verdict.CONFIRMED else verdict
        compared = tuple(replace(each, finding=NOT_COMPARABLE, reason="stopped by hand") for each in compared)
    late = health["candidate"].problem()
    if late and verdict is Verdict.CONFIRMED:
        notes.append(f"{late}; it was charged to the server, which met its targets all the same")
    elif late:
        faults.append(f"the client was the bottleneck: {late}")
    if faults:
        verdict = Verdict.INVALID
        results = tuple(replace(result, verdict=Verdict.INVALID) for result in results)
        compared = tuple(not_comparable(each.metric, "the run is invalid") for each in compared)
    return Judgement(
        verdict=verdict,
        reasons=(*faults, *notes, *_further_notes(lines["candidate"], steady, compared, plan, looks)),
        targets=results,
        record=record,
        tallies={side: tally(line.samples) for side, line in lines.items()},
        payloads={side: payload_digest(plan, line.samples) for side, line in lines.items()},
        health=health,
        steady=steady,
        contrasts=compared,
        judged_s=lines["candidate"].seconds,
        saturated=saturated(lines["candidate"], steady),
        looks=looks,
        run_dir=run_dir,
    )


def decided_at(run_dir: Path, record: RunRecord, look: Look) -> bool:
    """Whether a run under way is decided by a look at it: every target confirmed, one refuted, or the server overrun.

    Args:
        run_dir: the run folder; all that was due before the look is settled and written.
        record: the run's, so far.
        look: when, and how sure.
    """
    line = lay_out(record, read_samples(run_dir), "candidate").before(look.at_s)
    steady, results = assess(record.plan, line, record.plan.targets, look.confidence)
    return _decides(line, steady, results)


def _compare(
    record: RunRecord,
    lines: Mapping[Side, Timeline],
    targets: tuple[Target, ...],
    health: Mapping[Side, ClientHealth],
    faults: list[str],
) -> tuple[Contrast, ...]:
    if "baseline" in lines:
        return compare_sides(record, lines, targets, health["baseline"], faults)
    if record.plan.baseline_run is not None:
        return compare_with_run(record.plan, lines["candidate"], targets, Path(record.plan.baseline_run), faults)
    return ()


def _look(
    record: RunRecord, line: Timeline, targets: tuple[Target, ...]
) -> tuple[Steady | None, tuple[TargetResult, ...], Timeline, int]:
    """The run as it is judged: the whole of it, or up to the first look that decides, with that look's confidence."""
    plan, measured = record.plan, record.measured_s
    if not plan.until_decided:
        part = line if measured is None else line.before(measured)
        return *assess(plan, part, targets), part, 1
    looks = [look for look in draw_looks(plan.seconds, plan.confidence) if measured is None or look.at_s <= measured]
    # A run that was interrupted before its first look is judged by what that look may spend.
    looks = looks or [Look(measured or 0.0, draw_looks(plan.seconds, plan.confidence)[0].confidence)]
    taken = 0
    for look in looks:
        part, taken = line.before(look.at_s), taken + 1
        steady, results = assess(plan, part, targets, look.confidence)
        if _decides(part, steady, results):
            break
    return steady, results, part, taken


def _decides(line: Timeline, steady: Steady | None, results: tuple[TargetResult, ...]) -> bool:
    # A server that can't keep up is not driven on: it would be refuted in the end, or fall over.
    return saturated(line, steady) or overall(results) in (Verdict.CONFIRMED, Verdict.REFUTED)


def _interrupted(record: RunRecord, verdict: Verdict) -> str:
    text = f"{record.interrupted} after {record.measured_s:.3g} s of {record.plan.seconds:.3g} s; that part is judged"
    if verdict is Verdict.CONFIRMED:
        return f"{text}, and met its targets; but whoever stops a run by hand could stop it when it looks good"
    return text


def _further_notes(
    line: Timeline, steady: Steady | None, compared: tuple[Contrast, ...], plan: Plan, looks: int
) -> list[str]:
    notes = []
    if looks > 1:
        notes.append(f"looked at {looks} times, each look held to its share of the 1 % that the verdict may err")
    if steady is not None and steady.start_s > 0:
        left_out = int(((line.at < steady.start_s) & (line.samples.outcome == Outcome.OK)).sum())
        notes.append(f"the first {steady.start_s:.3g} s ({left_out} answers) were left out as warm-up")
    if steady is not None and not steady.stable:
        notes.append(f"not steady: {unsteady(steady)}")
    for each in compared:
        if each.candidate_s is not None and each.baseline_s is not None:
            notes.append(
                f"{each.metric} {milliseconds(each.baseline_s)} -> {milliseconds(each.candidate_s)}: the "
                f"baseline's is {each.ratio:.2f} times the candidate's "
                f"({each.low:.2f} to {each.high:.2f} with 99 %): {each.finding}"
            )
        if each is compared[0] and each.reason:
            notes.append(f"not comparable with the baseline: {each.reason}")
    if compared and plan.baseline_run is not None:
        notes.append(
            f"the baseline is the stored run {plan.baseline_run}: what changed on the machine between the two runs is "
            "in the ratio, and the interval doesn't know of it; --baseline URL drives both servers and proves more"
        )
    return notes
