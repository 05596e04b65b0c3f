"""Whether a run can be judged at all: the books balance, the servers were the ones meant, the client kept its schedule.

Pure functions of the record and the samples; each fault is one sentence. Every number of these rules stands here.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..bundle.compare import quantile
from .arrivals import block_offsets
from .calibration import from_json
from .plan import Block, Plan, Side
from .samples import FAILED, Outcome, RunRecord, Samples
from .targets import Target, latency_limits

LATE_S = 0.001
"""A send this far behind its schedule is late …"""

LATE_LIMIT_SHARE = 0.05
"""… or, with a wide limit, this share of the tightest limit behind: what the client adds must stay small beside it."""

LATE_SENDS = 0.01
"""More late sends than this share: the client is the bottleneck."""

RATE_SHORTFALL = 0.01
"""A rate this share below the scheduled one, through the client: the client is the bottleneck."""


@dataclass(frozen=True)
class Tally:
    """Where every arrival went: ``arrivals = sent + over_cap`` and ``sent = ok + failed + unfinished``.

    Attributes:
        sent: requests that left the client.
        ok: answered well.
        failed: refused, in error, timed out, or answered wrongly.
        over_cap: not sent, since the most requests allowed were under way.
        unfinished: sent and open when the run ended.
        by_outcome: count by outcome name.
    """

    sent: int
    ok: int
    failed: int
    over_cap: int
    unfinished: int
    by_outcome: Mapping[str, int]


@dataclass(frozen=True)
class ClientHealth:
    """How well the client kept the schedule.

    Attributes:
        late: share of sends later than ``allowance_s``.
        allowance_s: what counted as late.
        p50_s, p99_s, max_s: lateness of the sends in seconds; zero without sends.
        offered: arrivals scheduled a second.
        achieved: requests sent a second.
        shortfall: share of the scheduled rate that the client (not the cap) failed to offer.
    """

    late: float
    allowance_s: float
    p50_s: float
    p99_s: float
    max_s: float
    offered: float
    achieved: float
    shortfall: float

    def problem(self) -> str | None:
        """Why the client is the bottleneck; None where it isn't."""
        if self.late > LATE_SENDS:
            return (
                f"{self.late:.1%} of sends were more than {1e3 * self.allowance_s:.3g} ms late "
                f"(p99 {1e3 * self.p99_s:.3g} ms), at most {LATE_SENDS:.0%} may be"
            )
        return None


def tally(samples: Samples) -> Tally:
    """Count one side's samples."""
    counts = samples.counts()
    failed = sum(counts[outcome] for outcome in FAILED)
    sent = counts[Outcome.OK] + failed + counts[Outcome.UNFINISHED]
    names = {outcome.name: count for outcome, count in counts.items()}
    return Tally(sent, counts[Outcome.OK], failed, counts[Outcome.OVER_CAP], counts[Outcome.UNFINISHED], names)


def client_health(
    plan: Plan,
    blocks: tuple[Block, ...],
    samples: Samples,
    targets: tuple[Target, ...],
    measured_s: float | None = None,
) -> ClientHealth:
    """Lateness and rate on one side's blocks.

    Args:
        plan: what was to be done.
        blocks: the side's.
        samples: the side's; of a run that ended early, those that were due before ``measured_s``.
        targets: what is promised; the tightest limit decides what is late.
        measured_s: where in its schedule the run ended, if early.
    """
    limits = latency_limits(targets)
    allowance = max(LATE_S, LATE_LIMIT_SHARE * min(limits)) if limits else LATE_S
    lateness = samples.lateness
    seconds = plan.block_seconds if measured_s is None else measured_s
    elapsed = 0.0
    for block in blocks:
        sent = samples.sent[samples.block == block.index]
        elapsed += max(seconds, float(sent[~np.isnan(sent)].max(initial=0.0)))
    due = sum(_due(plan, block, worker, seconds) for block in blocks for worker in range(plan.workers))
    counts = tally(samples)
    offered = due / (len(blocks) * seconds) if seconds else 0.0
    return ClientHealth(
        late=float((lateness > allowance).mean()) if len(lateness) else 0.0,
        allowance_s=allowance,
        p50_s=quantile(lateness, 0.5) if len(lateness) else 0.0,
        p99_s=quantile(lateness, 0.99) if len(lateness) else 0.0,
        max_s=float(lateness.max(initial=0.0)),
        offered=offered,
        achieved=counts.sent / elapsed if elapsed else 0.0,
        shortfall=1.0 - (counts.sent + counts.over_cap) / elapsed / offered if due else 0.0,
    )


def payload_digest(plan: Plan, samples: Samples) -> str:
    """SHA-256 of what one side was sent: of the data file's digest and the rows, as int32, in the order of sending."""
    return hashlib.sha256(plan.data.digest.encode() + samples.payload.astype("<i4").tobytes()).hexdigest()


def run_faults(record: RunRecord, samples: Mapping[Side, Samples]) -> list[str]:
    """What makes the whole run INVALID, whatever its latencies are; empty where nothing does.

    Args:
        record: the run's.
        samples: all that were written, by side.

    The client's lateness is not among them: :func:`~nlpdeploy.loadtest.verdict.judge` weighs it with the verdict.
    """
    faults = []
    if record.interrupted and record.measured_s is None:
        faults.append(f"the run was cut short: {record.interrupted}")
    calibrated = from_json(record.machine.get("client"))
    if calibrated is not None and (fault := calibrated.fault(record.plan.rate)):
        faults.append(fault)
    for side, own in samples.items():
        if not len(own):
            faults.append(f"no samples of the {side}")
    faults.extend(_summary(list(_book_faults(record, samples))))
    for side in samples:
        faults.extend(_server_faults(record, side))
    faults.extend(_summary(list(_pair_faults(record, samples))))
    return faults


def seen_values(record: RunRecord, side: Side, what: str) -> Counter[str]:
    """Answers by the ``digests`` or ``engines`` that they carried, over one side's books."""
    own = {block.index for block in record.blocks if block.side == side}
    seen: Counter[str] = Counter()
    for books in record.books:
        if books.block in own:
            seen.update(getattr(books, what))
    return seen


def _due(plan: Plan, block: Block, worker: int, before_s: float) -> int:
    offsets = block_offsets(plan, block, worker)
    return int(np.searchsorted(offsets, before_s))


def _book_faults(record: RunRecord, samples: Mapping[Side, Samples]) -> Iterator[str]:
    """Worker by worker: it came to its end, and schedule, books and samples agree."""
    plan = record.plan
    books = {(entry.block, entry.worker): entry for entry in record.books}
    for block in record.blocks:
        own = samples[block.side].where(samples[block.side].block == block.index)
        for worker in range(plan.workers):
            where = f"worker {worker} in block {block.index}"
            entry = books.get((block.index, worker))
            if entry is None or entry.problem is not None:
                yield f"{where} was lost: {entry.problem if entry else 'it left no books'}"
                continue
            mine = own.where(own.worker == worker)
            counted = {outcome.name: count for outcome, count in mine.counts().items() if count}
            kept = {name: count for name, count in entry.outcomes.items() if count}
            due = _due(plan, block, worker, plan.block_seconds)
            if record.measured_s is not None:  # it ended early, but nothing before that moment may be missing
                due = min(due, max(entry.scheduled, _due(plan, block, worker, record.measured_s)))
            if counted != kept:
                yield f"{where}: its books say {_listed(kept)}, its samples {_listed(counted)}"
            elif not len(mine) == entry.scheduled == due:
                yield f"{where}: {due} arrivals in the plan, {entry.scheduled} in its books, {len(mine)} samples"


def _server_faults(record: RunRecord, side: Side) -> Iterator[str]:
    facts, seen = record.servers.get(side), seen_values(record, side, "digests")
    digests = set(seen) | ({facts.digest} if facts and facts.digest else set())
    if len(digests) > 1:
        yield f"the {side}'s bundle changed during the run: {', '.join(sorted(short(digest) for digest in digests))}"
    expected = record.plan.expect_digest
    if side == "candidate" and expected is not None and digests != {expected}:
        found = ", ".join(sorted(short(digest) for digest in digests)) or "no digest"
        yield f"the candidate's bundle is not the expected one: found {found}, wanted {short(expected)}"
    if len(seen_values(record, side, "engines")) > 1:
        yield f"the {side}'s engine changed during the run: {', '.join(sorted(seen_values(record, side, 'engines')))}"


def _pair_faults(record: RunRecord, samples: Mapping[Side, Samples]) -> Iterator[str]:
    """Both blocks of a pair were due at the same times with the same payloads."""
    if "baseline" not in samples:
        return
    sent = {side: payload_digest(record.plan, own) for side, own in samples.items()}
    if len(set(sent.values())) > 1:
        each = ", ".join(f"{side} {short(digest)}" for side, digest in sent.items())
        yield f"the two sides were sent other payloads: {each}"
    for pair in sorted({block.pair for block in record.blocks}):
        index = {block.side: block.index for block in record.blocks if block.pair == pair}
        one, other = (samples[side].where(samples[side].block == index.get(side, -1)) for side in samples)
        same = np.array_equal(one.scheduled, other.scheduled) and np.array_equal(one.payload, other.payload)
        if not same:
            yield f"pair {pair}: the two sides got other arrivals or other payloads"


def short(digest: str) -> str:
    """A digest's beginning, enough to tell bundles apart."""
    return digest[:12]


def _listed(counts: Mapping[str, int]) -> str:
    return " ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "nothing"


def _summary(faults: list[str], most: int = 3) -> list[str]:
    more = [f"… and {len(faults) - most} more of the kind"] if len(faults) > most else []
    return faults[:most] + more
