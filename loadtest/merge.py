"""Several runs of one plan judged as one: more samples than any of them had. Without traffic; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..bundle.errors import InvalidInput
from .assess import Timeline, assess, lay_out, overall, saturated, unsteady
from .certify import Verdict
from .judgement import Judgement
from .samples import Outcome, RunRecord, Samples, read_record, read_samples
from .steady import steady_window
from .targets import Target, check_targets
from .validity import ClientHealth, client_health, run_faults, seen_values, short, tally

_ALIKE = ("model", "version", "rate", "arrivals", "timeout_s")


def judge_merged(run_dirs: Sequence[Path], targets: tuple[Target, ...] | None = None) -> Judgement:
    """Judge runs as one, laid end to end in the order given, each without its own warm-up.

    One fault of one of them makes the whole INVALID, and so does another bundle or engine from run to run.

    Args:
        run_dirs: at least two folders.
        targets: other targets than the first run's own.

    Raises:
        NotFound: no run there.
        InvalidInput: a folder twice, runs of different plans, with a baseline's blocks, or cut short.
    """
    if len({path.resolve() for path in run_dirs}) < len(run_dirs):
        raise InvalidInput("runs to merge", found="one of them twice", wanted="each once")
    records = [read_record(path) for path in run_dirs]
    for path, record in zip(run_dirs, records, strict=True):
        _check_mergeable(path, record, records[0])
    plan = records[0].plan
    promised = targets or plan.targets
    check_targets(promised, plan.timeout_s, plan.rate, baseline=False)
    faults, lines, healths = list[str](), list[Timeline](), list[ClientHealth]()
    for path, record in zip(run_dirs, records, strict=True):
        samples = read_samples(path)
        faults.extend(f"{path}: {fault}" for fault in run_faults(record, {"candidate": samples}))
        line = lay_out(record, samples, "candidate")
        healths.append(client_health(record.plan, line.blocks, samples, promised))
        lines.append(_without_warm_up(line))
    faults.extend(_other_servers(records))
    line = _end_to_end(lines)
    steady, results = assess(plan, line, promised)
    verdict, notes = overall(results), [result.reason for result in results]
    faults.extend(
        f"{path}: the client was the bottleneck: {late}"
        for path, health in zip(run_dirs, healths, strict=True)
        if (late := health.problem()) and verdict is not Verdict.CONFIRMED
    )
    if faults:
        verdict = Verdict.INVALID
        results = tuple(replace(result, verdict=Verdict.INVALID) for result in results)
    notes.append(f"{len(run_dirs)} runs as one: {', '.join(str(path) for path in run_dirs)}")
    if len({record.plan.seed for record in records}) < len(records):
        notes.append("some of them had the same seed, and so the same arrivals and texts")
    if steady is not None and not steady.stable:
        notes.append(f"not steady: {unsteady(steady)}")
    return Judgement(
        verdict=verdict,
        reasons=(*faults, *notes),
        targets=results,
        record=records[0],
        tallies={"candidate": tally(line.samples)},
        health={"candidate": max(healths, key=lambda health: health.late)},
        steady=steady,
        contrasts=(),
        judged_s=line.seconds,
        saturated=saturated(line, steady),
        looks=1,
        run_dir=run_dirs[0],
    )


def _check_mergeable(path: Path, record: RunRecord, first: RunRecord) -> None:
    plan = record.plan
    if plan.baseline_url is not None:
        raise InvalidInput(f"run {path}", found="blocks of two servers", wanted="a run without --baseline URL")
    if plan.until_decided or record.measured_s is not None:
        raise InvalidInput(
            f"run {path}",
            found="a run that ended when it was decided, or by hand",
            wanted="runs whose length was fixed before",
            mend="runs that stop when they look good add up to nothing: give --seconds",
        )
    for name in _ALIKE:
        if getattr(plan, name) != getattr(first.plan, name):
            found, wanted = getattr(plan, name), getattr(first.plan, name)
            raise InvalidInput(
                f"{name.removesuffix('_s')} of run {path}", found=found, wanted=f"{wanted}, as the first"
            )
    if plan.data.digest != first.plan.data.digest:
        raise InvalidInput(f"texts of run {path}", found=plan.data.digest, wanted=first.plan.data.digest)


def _other_servers(records: Sequence[RunRecord]) -> list[str]:
    digests = {digest for record in records for digest in seen_values(record, "candidate", "digests")}
    engines = {engine for record in records for engine in seen_values(record, "candidate", "engines")}
    faults = []
    if len(digests) > 1:
        faults.append(f"the runs met different bundles: {', '.join(sorted(map(short, digests)))}")
    if len(engines) > 1:
        faults.append(f"the runs met different engines: {', '.join(sorted(engines))}")
    return faults


def _without_warm_up(line: Timeline) -> Timeline:
    """From the run's steady start on; requests without a good answer stay, as ever."""
    if not len(line.samples):
        return line
    start = steady_window(line.at, line.samples.latency, line.ended, line.seconds).start_s
    kept = (line.at >= start) | (line.samples.outcome != Outcome.OK)
    at, ended = np.maximum(line.at[kept] - start, 0.0), line.ended[kept] - start
    return replace(line, samples=line.samples.where(kept), at=at, ended=ended, seconds=line.seconds - start)


def _end_to_end(lines: Sequence[Timeline]) -> Timeline:
    starts = np.cumsum([0.0, *(line.seconds for line in lines)])
    columns = {
        name: np.concatenate([getattr(line.samples, name) for line in lines]) for name in Samples.__dataclass_fields__
    }
    return Timeline(
        samples=Samples(**columns),
        at=np.concatenate([line.at + start for line, start in zip(lines, starts, strict=False)]),
        ended=np.concatenate([line.ended + start for line, start in zip(lines, starts, strict=False)]),
        seconds=float(starts[-1]),
        blocks=lines[0].blocks,
    )
