"""What a load test will do, parsed and checked before any traffic; it is stored with the run and read back to judge it.

Knows flags' texts and the drawn order of blocks; not how requests are sent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ..bundle.errors import InvalidInput
from .certify import CONFIDENCE
from .targets import Target, check_targets

Arrivals = Literal["poisson", "constant", "gamma", "ramp", "replay"]
Side = Literal["candidate", "baseline"]
ARRIVALS: tuple[Arrivals, ...] = ("poisson", "constant", "gamma", "ramp", "replay")


@dataclass(frozen=True)
class DataFile:
    """The texts that are sent.

    Attributes:
        path: as given.
        digest: SHA-256 of the file in hexadecimal; the verdict's page names it.
        rows: usable rows; a sample's ``payload`` is one of 0 … rows - 1.
        text_column: the column of the text.
        pair_column: the column of the second text of pair tasks.
        golden: where the answers that replies are checked against come from; None if only their form is checked.
    """

    path: str
    digest: str
    rows: int
    text_column: str
    pair_column: str | None = None
    golden: str | None = None


@dataclass(frozen=True)
class TraceFile:
    """Recorded arrivals that are replayed.

    Attributes:
        path: of the file; in a stored run, its copy there.
        digest: SHA-256 of the file in hexadecimal.
        rows: arrivals in it.
        column: of their times.
        texts: whether each carries the text in its own row, in order; else texts are drawn as ever.
    """

    path: str
    digest: str
    rows: int
    column: str
    texts: bool = False


@dataclass(frozen=True)
class Plan:
    """One load test.

    Attributes:
        url: ``grpc://``, ``http://`` or ``torchserve://host:port`` of the candidate.
        model: the model's name.
        version: its version; empty for the server's choice.
        data: what is sent.
        targets: what is promised; at least one.
        rate: arrivals a second over all workers.
        seconds: length of the arrival schedule on each side; with a baseline it is split over the pairs.
        arrivals: ``poisson`` (independent users), ``constant`` (a metronome), ``gamma`` (bursts), ``ramp`` (Poisson at
            a rate that rises from ``ramp_from`` to ``rate``) or ``replay`` (a recorded trace, sped up to ``rate``).
        burstiness: of ``gamma``: the coefficient of variation of the gaps; 1 is Poisson, above come bursts.
        ramp_from: of ``ramp``: the rate at the start.
        trace: of ``replay``.
        timeout_s: a request unanswered this long after its schedule is a TIMEOUT; above every limit.
        seed: of arrivals, payload order and drawn order.
        workers: client processes.
        max_in_flight: requests under way over all workers; an arrival above it is not sent and counts as OVER_CAP.
        expect_digest: the bundle digest that answers must carry, where the user named one.
        baseline_url: the server to compare with.
        until_decided: stop as soon as every target is decided; ``seconds`` is then the longest that it may take.
        confidence: that each target's certificate must reach.
        baseline_run: folder of a stored run to compare with, which proves less than a second server.
        key_file: with the token that the candidate asks for, if it is a TorchServe that asks; its path alone is kept.
        baseline_key_file: the same for the baseline.
        store: folder of bundles in which the one that answers is looked for, for its golden samples.
        pairs: pairs of a candidate and a baseline block (even: two make an ABBA or BAAB group); 0 without a baseline.
    """

    url: str
    model: str
    data: DataFile
    targets: tuple[Target, ...]
    rate: float
    seconds: float
    version: str = ""
    arrivals: Arrivals = "poisson"
    burstiness: float = 2.0
    ramp_from: float = 0.0
    trace: TraceFile | None = None
    timeout_s: float = 1.0
    seed: int = 1
    workers: int = 1
    max_in_flight: int = 1000
    expect_digest: str | None = None
    baseline_url: str | None = None
    pairs: int = 0
    until_decided: bool = False
    baseline_run: str | None = None
    confidence: float = CONFIDENCE
    key_file: str | None = None
    baseline_key_file: str | None = None
    store: str | None = None

    def __post_init__(self) -> None:
        """Refuse what can't be run.

        Raises:
            InvalidInput: a value out of range, two targets on one metric, or a timeout within a limit.
        """
        _check_load(self)
        _check_arrivals(self)
        check_targets(self.targets, self.timeout_s, self.rate, baseline=self.has_baseline)
        if self.baseline_url is not None and self.baseline_run is not None:
            raise InvalidInput("baseline", found="a server and a stored run", wanted="one of them")
        if self.until_decided and self.baseline_url is not None:
            raise InvalidInput("until decided", found="a baseline", wanted="a run without one", mend="give --seconds")
        if self.baseline_url is None and self.pairs:
            raise InvalidInput("pairs", found=self.pairs, wanted="0 without a baseline", mend="give --baseline URL")
        if self.baseline_url is not None and (self.pairs < 4 or self.pairs % 2):
            raise InvalidInput("pairs", found=self.pairs, wanted="an even number of at least 4 (20 by default)")

    @property
    def has_baseline(self) -> bool:
        """Whether there is something to compare with, a server or a stored run."""
        return self.baseline_url is not None or self.baseline_run is not None

    @property
    def block_seconds(self) -> float:
        """Length of one block's arrival schedule."""
        return self.seconds / self.pairs if self.pairs else self.seconds

    def key_file_of(self, url: str) -> str | None:
        """The key file of one of the plan's servers."""
        return self.key_file if url == self.url else self.baseline_key_file

    def to_json(self) -> dict[str, Any]:
        """A JSON object; :meth:`from_json` reads it back to an equal plan."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """Read a stored plan.

        Raises:
            InvalidInput: keys are missing or unknown, or a value is out of range.
        """
        try:
            fields = dict(value)
            fields["data"] = DataFile(**fields["data"])
            fields["trace"] = TraceFile(**fields["trace"]) if fields["trace"] else None
            fields["targets"] = tuple(Target(**target) for target in fields["targets"])
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise InvalidInput("stored plan", found=error, wanted="a plan written by this version") from error


@dataclass(frozen=True)
class Block:
    """A stretch of traffic against one side.

    Attributes:
        index: place in the drawn order, from 0.
        side: which server gets the traffic; the other one is idle.
        pair: which pair it belongs to; both blocks of a pair have the same arrivals and payload order.
        seed: of its arrivals and payload order.
    """

    index: int
    side: Side
    pair: int
    seed: int


def draw_blocks(plan: Plan) -> tuple[Block, ...]:
    """The blocks in the order in which they run.

    Without a baseline there is one. With one, pairs come in twos: the first of two is AB or BA by lot and the second
    the reverse, so that a drift over time falls on both sides alike (randomised ABBA).
    """
    if plan.baseline_url is None:
        return (Block(0, "candidate", 0, plan.seed),)
    random = np.random.default_rng(np.random.SeedSequence(plan.seed, spawn_key=(_ORDER,)))
    blocks: list[Block] = []
    for pair in range(0, plan.pairs, 2):
        order: tuple[Side, Side] = ("candidate", "baseline") if random.integers(2) else ("baseline", "candidate")
        for offset, sides in ((0, order), (1, order[::-1])):
            for side in sides:
                blocks.append(Block(len(blocks), side, pair + offset, plan.seed + pair + offset))
    return tuple(blocks)


_ORDER = 0x0ADE  # spawn key of the drawn order; arrivals and payloads use keys of their own


def _check_load(plan: Plan) -> None:
    for name, number in (("rate", plan.rate), ("seconds", plan.seconds), ("timeout", plan.timeout_s)):
        if not (math.isfinite(number) and number > 0):
            raise InvalidInput(name, found=number, wanted="a finite number above 0")
    for name, count in (
        ("workers", plan.workers),
        ("max in flight", plan.max_in_flight),
        ("data rows", plan.data.rows),
    ):
        if count < 1:
            raise InvalidInput(name, found=count, wanted="at least 1")
    if plan.max_in_flight < plan.workers:
        raise InvalidInput("max in flight", found=plan.max_in_flight, wanted=f"at least the {plan.workers} workers")
    if not 0.5 < plan.confidence < 1.0:
        raise InvalidInput("confidence", found=plan.confidence, wanted="between 0.5 and 1")
    if plan.seed < 0:
        raise InvalidInput("seed", found=plan.seed, wanted="0 or above")
    for url in (plan.url, plan.baseline_url):
        if url is not None and not re.match(r"(grpc|http|torchserve)://[^/\s]+", url):
            wanted = "grpc://HOST:PORT, http://HOST:PORT or torchserve://HOST:PORT"
            raise InvalidInput("url", found=url, wanted=wanted)
    for given, against in ((plan.key_file, plan.url), (plan.baseline_key_file, plan.baseline_url or "")):
        if given and not against.startswith("torchserve://"):
            raise InvalidInput("key file", found=f"for {against or 'no server'}", wanted="a torchserve:// address")


def _check_arrivals(plan: Plan) -> None:
    if plan.arrivals not in ARRIVALS:
        raise InvalidInput("arrivals", found=plan.arrivals, wanted=" or ".join(ARRIVALS))
    if not 0.1 <= plan.burstiness <= 20.0:
        raise InvalidInput("burstiness", found=plan.burstiness, wanted="0.1 to 20; 1 is Poisson")
    if not 0.0 <= plan.ramp_from < math.inf:
        raise InvalidInput("rate that the ramp starts from", found=plan.ramp_from, wanted="0 or above")
    if (plan.arrivals == "replay") != (plan.trace is not None):
        found = "a trace" if plan.trace else "no trace"
        raise InvalidInput(f"{plan.arrivals} arrivals", found=found, wanted="--arrivals replay with --trace FILE")
    if plan.baseline_url is not None and plan.arrivals in ("ramp", "replay"):
        raise InvalidInput(
            "arrivals against a baseline", found=plan.arrivals, wanted="arrivals whose blocks are alike, e.g. poisson"
        )


def as_arrivals(text: str) -> Arrivals:
    """One of ``ARRIVALS``.

    Raises:
        InvalidInput: another text.
    """
    if text not in ARRIVALS:
        raise InvalidInput("arrivals", found=text, wanted=" or ".join(ARRIVALS))
    return text
