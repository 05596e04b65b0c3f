"""What a run says, as values, as sentences and as JSON; nothing is decided here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .certify import Certificate, Verdict
from .contrast import Contrast
from .plan import Side
from .samples import RunRecord
from .steady import Steady
from .targets import Target
from .validity import ClientHealth, Tally, seen_values

REPORT_FILE = "report.html"


@dataclass(frozen=True)
class TargetResult:
    """One target's outcome.

    Attributes:
        target: what was promised.
        observed: the metric over the steady part in the limit's unit (seconds, share, or a second); infinite where too
            few requests had a good answer; None without samples.
        verdict: the certificate's, unless the run is INVALID or too unsteady to confirm.
        certificate: the count behind it; None without samples.
        reason: the sentence for a reader.
        advised_s: of an INCONCLUSIVE percentile, how long a run should be at this rate; None where that can't be said.
    """

    target: Target
    observed: float | None
    verdict: Verdict
    certificate: Certificate | None
    reason: str
    advised_s: float | None = None


@dataclass(frozen=True)
class Judgement:
    """What a run says, and why.

    Attributes:
        verdict: INVALID if the run can't be judged; else REFUTED if any target is, CONFIRMED if all are, INCONCLUSIVE
            otherwise.
        reasons: sentences, those that decide first.
        targets: one result a target.
        record: the run's record.
        tallies, health: by side.
        steady: the steady part of the candidate; None without samples.
        contrasts: the comparison with the baseline, quantile by quantile, the most important first; empty without one.
        judged_s: seconds of each side's schedule that were judged.
        saturated: the candidate could not keep up with the arrivals.
        looks: how often a run that may stop early was looked at; 1 for others.
        run_dir: the run folder.
        payloads: by side, SHA-256 of what it was sent (:func:`.validity.payload_digest`); empty where runs are merged.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    targets: tuple[TargetResult, ...]
    record: RunRecord
    tallies: Mapping[Side, Tally]
    health: Mapping[Side, ClientHealth]
    steady: Steady | None
    contrasts: tuple[Contrast, ...]
    judged_s: float
    saturated: bool
    looks: int
    run_dir: Path
    payloads: Mapping[Side, str] = field(default_factory=dict)

    @property
    def contrast(self) -> Contrast | None:
        """The comparison that stands in front; None without a baseline."""
        return self.contrasts[0] if self.contrasts else None

    def to_json(self) -> dict[str, Any]:
        """The object that ``nlpdeploy loadtest … --json`` prints; times in milliseconds, null where infinite."""
        books, health = self.tallies["candidate"], self.health["candidate"]
        return {
            "verdict": self.verdict.value,
            "reasons": list(self.reasons),
            "targets": [_target_json(result, self.record.plan.rate) for result in self.targets],
            **_books_json(books),
            "rate": {"offered": self.record.plan.rate, "scheduled": health.offered, "achieved": health.achieved},
            "server": _server_json(self.record, "candidate"),
            "payload": self._payload_json("candidate"),
            "baseline": self._baseline_json(),
            "client": {
                "late": health.late,
                "allowance_ms": 1e3 * health.allowance_s,
                "lateness_p99_ms": 1e3 * health.p99_s,
                "lateness_max_ms": 1e3 * health.max_s,
            },
            "steady": self.steady
            and {
                "stable": self.steady.stable,
                "warm_up_s": self.steady.start_s,
                "windows_ms": [_ms(mean) for mean in self.steady.windows_s],
                "in_flight_rise": self.steady.rise,
            },
            "judged_s": self.judged_s,
            "looks": self.looks,
            "saturated": self.saturated,
            "interrupted": self.record.interrupted,
            "run_dir": str(self.run_dir),
            "report": str(self.run_dir / REPORT_FILE),
        }

    def _payload_json(self, side: Side) -> dict[str, Any]:
        tokens = (self.record.machine.get("tokens_by_side") or {}).get(side)
        return {"data_sha256": self.record.plan.data.digest, "sent_sha256": self.payloads.get(side), "tokens": tokens}

    def _baseline_json(self) -> dict[str, Any] | None:
        found = self.contrast
        if found is None:
            return None
        books = _books_json(self.tallies["baseline"]) if "baseline" in self.tallies else {}
        return {
            **_server_json(self.record, "baseline"),
            "payload": self._payload_json("baseline") if books else None,
            **books,
            "run": self.record.plan.baseline_run,
            **_contrast_json(found),
            "quantiles": [_contrast_json(each) for each in self.contrasts],
            "order": [block.side for block in self.record.blocks],
            "pairs": [
                {"candidate_ms": _ms(candidate), "baseline_ms": _ms(baseline)} for candidate, baseline in found.pairs
            ],
        }


def describe(target: Target, observed: float, certificate: Certificate, rate: float, confidence: float) -> str:
    """The numbers behind a certificate, in a clause."""
    if target.is_latency:
        metric = f"{target.metric} {milliseconds(observed)}"
    else:
        metric = f"{target.metric} {target.shown(observed):.4g}{'' if target.unit == '/s' else ' '}{target.unit}"
    if certificate.allowed is None:
        assert certificate.low is not None  # noqa: S101  (a mean's certificate has an interval)
        assert certificate.high is not None  # noqa: S101
        ends = f"{milliseconds(certificate.low)} and {milliseconds(certificate.high)}"
        text = f"{metric}, between {ends} with {100 * confidence:.4g} %"
    else:
        share = certificate.over / certificate.samples
        over = "over the limit" if target.is_latency else "without a good answer"
        text = (
            f"{metric}, {certificate.over} of {certificate.samples} {over} "
            f"({_percent(round(share, 4))}, allowed {_percent(certificate.allowed)})"
        )
    if certificate.verdict is not Verdict.INCONCLUSIVE:
        return text
    if certificate.more is None:
        return f"{text}; too near the limit for a longer run to decide"
    return f"{text}; about {math.ceil(certificate.more / rate)} s more at this rate would decide"


def milliseconds(seconds: float) -> str:
    """``45.4 ms``; a metric that is infinite says why."""
    return f"{1e3 * seconds:.4g} ms" if math.isfinite(seconds) else "none (no good answer)"


def _percent(share: float) -> str:
    return f"{round(100 * share, 8):g} %"


def _ms(seconds: float | None) -> float | None:
    return 1e3 * seconds if seconds is not None and math.isfinite(seconds) else None


def _target_json(result: TargetResult, rate: float) -> dict[str, Any]:
    found = result.certificate
    return {
        "metric": result.target.metric,
        "limit_ms": _ms(result.target.limit) if result.target.is_latency else None,
        "observed_ms": _ms(result.observed) if result.target.is_latency else None,
        "limit": result.target.shown(result.target.limit),
        "observed": _shown(result),
        "unit": result.target.unit,
        "verdict": result.verdict.value,
        "samples": found and found.samples,
        "over": found and found.over,
        "allowed": found and found.allowed,
        "inflation": found and found.inflation,
        "chance": found and found.chance,
        "low_ms": found and _ms(found.low),
        "high_ms": found and _ms(found.high),
        "advised_seconds": result.advised_s,
        "more_seconds": found.more / rate if found and found.more is not None else None,
    }


def _shown(result: TargetResult) -> float | None:
    if result.observed is None or not math.isfinite(result.observed):
        return None
    return result.target.shown(result.observed)


def _contrast_json(found: Contrast) -> dict[str, Any]:
    return {
        "metric": found.metric,
        "candidate_ms": _ms(found.candidate_s),
        "baseline_ms": _ms(found.baseline_s),
        "baseline_low_ms": _ms(found.baseline_low),
        "baseline_high_ms": _ms(found.baseline_high),
        "ratio": found.ratio,
        "ratio_low": found.low,
        "ratio_high": found.high,
        "finding": found.finding,
        "reason": found.reason,
    }


def _books_json(books: Tally) -> dict[str, Any]:
    return {
        "sent": books.sent,
        "ok": books.ok,
        "failed": books.failed,
        "over_cap": books.over_cap,
        "unfinished": books.unfinished,
        "outcomes": dict(books.by_outcome),
    }


def _server_json(record: RunRecord, side: Side) -> dict[str, Any]:
    facts = record.servers.get(side)
    digests, engines = seen_values(record, side, "digests"), seen_values(record, side, "engines")
    return {
        "url": facts.url if facts else None,
        "digest": next(iter(digests), None) or (facts.digest if facts else None),
        "engine": next(iter(engines), None) or (facts.engine if facts else None),
        "usage": (record.machine.get("server_usage") or {}).get(side),
        "metrics": (record.machine.get("server_metrics") or {}).get(side),
    }
