"""How much this machine's client can offer: the highest rate that leaves on time, against a server that does nothing.

The search is pure but for its probes, each of which is a load test of its own.
"""

from __future__ import annotations

import datetime as dt
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..bundle.compare import quantile
from ..bundle.errors import EngineFailed
from .calibration import Calibration, machine
from .driver import run
from .null_server import MODEL, null_server
from .payloads import read_payloads
from .plan import Block, Plan
from .samples import Samples, read_record, read_samples
from .targets import parse_target
from .validity import LATE_S, RATE_SHORTFALL, client_health, tally

TRANSPORTS = ("grpc", "http")
LOWEST, HIGHEST = 50.0, 20_000.0
PRECISION = 1.1
"""Rates that passed and failed end at most this ratio apart."""
_TEXT = "Where is the card that I ordered last week?"
_TIMEOUT = 2.0

Probe = Callable[[float], "Reading"]


@dataclass(frozen=True)
class Reading:
    """What the client did at one rate.

    Attributes:
        rate: arrivals a second.
        lateness_p99_s: seconds.
        latency_p50_s, latency_p99_s: of the answers of a server that does nothing, from the schedule.
        why: it did not keep its schedule; empty where it did.
    """

    rate: float
    lateness_p99_s: float
    latency_p50_s: float
    latency_p99_s: float
    why: str = ""

    @property
    def kept(self) -> bool:
        """It kept its schedule: p99 of the lateness below 1 ms, the rate achieved, every answer good."""
        return not self.why


def search(probe: Probe, highest: float = HIGHEST) -> tuple[Reading, Reading, Reading | None]:
    """The lowest rate's reading, that of the highest rate found at which the schedule was kept, and that of the lowest
    at which it was not; None where it was kept at ``highest``.

    Rates double until one fails, which gets a second try (another process may have had the processor); then the gap is
    halved, by ratio.
    """
    floor = best = probe(LOWEST)
    if not floor.kept:
        return floor, floor, floor
    failed: Reading | None = None
    while best.rate < highest and (failed is None or failed.rate / best.rate > PRECISION):
        rate = min(2.0 * best.rate, highest) if failed is None else math.sqrt(best.rate * failed.rate)
        reading = probe(rate)
        if not reading.kept:
            reading = probe(rate)
        if reading.kept:
            best = reading
        else:
            failed = reading
    return floor, best, failed


def calibrate(
    transport: str, workers: int, seconds: float, say: Callable[[str], None], highest: float = HIGHEST
) -> Calibration:
    """Search with a null server beside the client, ``seconds`` a rate, up to ``highest``.

    Raises:
        As :func:`~nlpdeploy.loadtest.driver.run`.
        EngineFailed: the null server did not start.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="nlpdeploy-calibrate-") as name, null_server() as addresses:
            folder = Path(name)
            (folder / "texts.txt").write_text(_TEXT)
            tried: list[float] = []

            def probe(rate: float) -> Reading:
                say(f"{transport}: {rate:.0f}/s")
                tried.append(rate)
                plan = Plan(
                    url=addresses[transport],
                    model=MODEL,
                    data=read_payloads(folder / "texts.txt").source,
                    targets=(parse_target("p99=1s"),),
                    rate=rate,
                    seconds=seconds,
                    timeout_s=_TIMEOUT,
                    workers=workers,
                )
                run_dir = folder / f"{len(tried):02d}"
                run(plan, run_dir)
                return read(plan, read_record(run_dir).blocks, read_samples(run_dir))

            floor, best, failed = search(probe, highest)
    except RuntimeError as error:
        raise EngineFailed("calibration", found=error) from error
    return Calibration(
        transport=transport,
        workers=workers,
        max_rate=best.rate if best.kept else 0.0,
        lateness_p99_ms=1e3 * best.lateness_p99_s,
        floor_p50_ms=1e3 * floor.latency_p50_s,
        floor_p99_ms=1e3 * floor.latency_p99_s,
        limit=f"at {failed.rate:.0f}/s {failed.why}" if failed else f"{best.rate:.0f}/s was the highest rate tried",
        machine=machine(),
        when=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )


def read(plan: Plan, blocks: tuple[Block, ...], samples: Samples) -> Reading:
    """What one run against the null server tells of the client."""
    health, books = client_health(plan, blocks, samples, ()), tally(samples)
    latency = samples.latency[np.isfinite(samples.latency)]
    p50, p99 = (quantile(latency, share) if len(latency) else math.inf for share in (0.5, 0.99))
    why = ""
    if books.ok != len(samples) or not books.ok:
        why = f"{len(samples) - books.ok} of {len(samples)} requests had no good answer"
    elif health.shortfall > RATE_SHORTFALL:
        why = f"it offered {100 * health.shortfall:.1f} % less than scheduled"
    elif health.p99_s >= LATE_S:
        why = f"the p99 of its lateness was {1e3 * health.p99_s:.3g} ms"
    return Reading(plan.rate, health.p99_s, p50, p99, why)
