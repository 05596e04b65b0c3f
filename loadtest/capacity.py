"""The highest rate at which a server meets its targets: which rate to try next, and what the tries say. Pure.

Every probe is a load test of its own that stops as soon as it is decided. Rates double until one is not met, then the
gap is halved, in ratios, until it is narrow enough. That a server meets its targets at every rate below one at which it
meets them is taken for granted; where probes say otherwise, the answer says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from .certify import CONFIDENCE, Verdict


@dataclass(frozen=True)
class Probe:
    """One rate that was tried.

    Attributes:
        rate: arrivals a second.
        verdict: of its load test; INVALID if the client or the run was at fault.
        saturated: requests in flight grew all the while: the server can't keep up.
        seconds: of the schedule that were judged.
        quantiles_s: p50, p95 and p99 by name in seconds; None where too few requests had a good answer.
        in_flight: mean number of requests in flight.
        failed: share of requests without a good answer.
        reason: the judgement's first sentence.
        run_dir: the probe's run folder.
    """

    rate: float
    verdict: Verdict
    saturated: bool
    seconds: float
    quantiles_s: dict[str, float | None] = field(default_factory=dict)
    in_flight: float = 0.0
    failed: float = 0.0
    reason: str = ""
    run_dir: str = ""

    @property
    def met(self) -> bool:
        """The targets were confirmed."""
        return self.verdict is Verdict.CONFIRMED

    @property
    def missed(self) -> bool:
        """They were refuted, or the server could not keep up."""
        return self.verdict is Verdict.REFUTED or (self.saturated and self.verdict is not Verdict.INVALID)


@dataclass(frozen=True)
class Search:
    """Where to look for the capacity.

    Attributes:
        lowest, highest: rates to try at least and at most; the search starts at the lowest.
        precision: it ends when the lowest rate missed is within this share of the highest rate met.
        probes: how many rates are tried at most.
    """

    lowest: float
    highest: float
    precision: float = 0.10
    probes: int = 10

    @property
    def confidence(self) -> float:
        """That each probe is held to, so that all of them together are as sure as a single verdict."""
        return 1.0 - (1.0 - CONFIDENCE) / self.probes


@dataclass(frozen=True)
class Capacity:
    """What the probes say.

    Attributes:
        verdict: CONFIRMED where a rate is known that meets the targets; REFUTED where even the lowest doesn't; else
            INCONCLUSIVE, or INVALID if the client was at fault before anything was known.
        low: the highest rate that was confirmed; None without one.
        high: the lowest rate above it that was missed; None where none was.
        reason: a sentence.
    """

    verdict: Verdict
    low: float | None
    high: float | None
    reason: str


def next_rate(search: Search, probes: Sequence[Probe]) -> float | None:
    """The rate to try next; None when the search is over."""
    if not probes:
        return search.lowest
    if len(probes) >= search.probes or any(probe.verdict is Verdict.INVALID for probe in probes):
        return None
    low, high = bracket(probes)
    if low is None:
        # Not even the lowest rate: nothing below it was asked for.
        return None
    if high is None:
        unclear = [probe.rate for probe in probes if not probe.met and probe.rate > low]
        if unclear:
            # Above rates that stay unclear, the next that is clearly missed closes the gap from above.
            top = max(unclear)
            return min(2.0 * top, search.highest) if top < search.highest else _between(search, low, min(unclear))
        return min(2.0 * low, search.highest) if low < search.highest else None
    unclear = [probe.rate for probe in probes if low < probe.rate < high]
    if not unclear:
        return _between(search, low, high)
    # Both halves beside the unclear stretch may still be narrowed; the wider one goes first.
    halves = sorted(((min(unclear), low), (high, max(unclear))), key=lambda pair: pair[0] / pair[1], reverse=True)
    for upper, lower in halves:
        rate = _between(search, lower, upper)
        if rate is not None:
            return rate
    return None


def bracket(probes: Sequence[Probe]) -> tuple[float | None, float | None]:
    """The highest rate met below every rate missed, and the lowest rate missed."""
    high = min((probe.rate for probe in probes if probe.missed), default=None)
    met = [probe.rate for probe in probes if probe.met and (high is None or probe.rate < high)]
    return max(met, default=None), high


def conclude(search: Search, probes: Sequence[Probe]) -> Capacity:
    """The capacity's interval, as far as the probes tell."""
    low, high = bracket(probes)
    invalid = next((probe for probe in probes if probe.verdict is Verdict.INVALID), None)
    beyond = [probe.rate for probe in probes if probe.met and high is not None and probe.rate > high]
    notes = []
    if beyond:
        notes.append(f"yet it was confirmed at {max(beyond):g}/s: it is not the rate alone that decides")
    if invalid is not None:
        notes.append(f"the search ended at {invalid.rate:g}/s, where a run was invalid: {invalid.reason}")
    if low is not None and high is not None:
        sentence = f"meets the targets at {low:g}/s and no longer at {high:g}/s"
        verdict = Verdict.CONFIRMED
    elif low is not None:
        sentence = f"meets the targets at {low:g}/s; no rate was found that doesn't"
        verdict = Verdict.CONFIRMED
    elif high is not None:
        sentence = f"misses the targets at {high:g}/s, and no lower rate is known to meet them"
        verdict = Verdict.REFUTED if high <= search.lowest else Verdict.INCONCLUSIVE
    else:
        sentence = "no rate was decided"
        verdict = Verdict.INVALID if invalid is not None else Verdict.INCONCLUSIVE
    return Capacity(verdict, low, high, "; ".join([sentence, *notes]))


def _between(search: Search, low: float, high: float) -> float | None:
    """The rate in the middle by ratio; None where the gap is narrow enough."""
    if high <= (1.0 + search.precision) * low:
        return None
    # Three digits: a rate that a person can repeat.
    middle = math.sqrt(low * high)
    return float(f"{middle:.3g}")
