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
        kept: it kept its schedule: p99 of the lateness below 1 ms, the rate achieved, every answer good.
        lateness_p99_s: seconds.
        latency_p50_s, latency_p99_s: of the answers of a server that does nothing, from the schedule.
    """

    rate: float
    kept: bool
    lateness_p99_s: float
    latency_p50_s: float
    latency_p99_s: float


def search(probe: Probe) -> tuple[Reading, Reading]:
    """The lowest rate's reading, and that of the highest rate found at which the schedule was kept.

    Rates double until one fails, which gets a second try (another process may have had the processor); then the gap is
    halved, by ratio.
    """
    floor = best = probe(LOWEST)
    if not floor.kept:
        return floor, floor
    failed = math.inf
    while best.rate < HIGHEST and failed / best.rate > PRECISION:
        rate = min(2.0 * best.rate, HIGHEST) if math.isinf(failed) else math.sqrt(best.rate * failed)
        reading = probe(rate)
        if not reading.kept:
            reading = probe(rate)
        if reading.kept:
            best = reading
        else:
            failed = rate
    return floor, best


def calibrate(transport: str, workers: int, seconds: float, say: Callable[[str], None]) -> Calibration:
    """Search with a null server beside the client, ``seconds`` a rate.

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

            floor, best = search(probe)
    except RuntimeError as error:
        raise EngineFailed("calibration", found=error) from error
    return Calibration(
        transport=transport,
        workers=workers,
        max_rate=best.rate if best.kept else 0.0,
        lateness_p99_ms=1e3 * best.lateness_p99_s,
        floor_p50_ms=1e3 * floor.latency_p50_s,
        floor_p99_ms=1e3 * floor.latency_p99_s,
        machine=machine(),
        when=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )


def read(plan: Plan, blocks: tuple[Block, ...], samples: Samples) -> Reading:
    """What one run against the null server tells of the client."""
    health, books = client_health(plan, blocks, samples, ()), tally(samples)
    latency = samples.latency[np.isfinite(samples.latency)]
    kept = health.p99_s < LATE_S and health.shortfall <= RATE_SHORTFALL and books.ok == len(samples) > 0
    p50, p99 = (quantile(latency, share) if len(latency) else math.inf for share in (0.5, 0.99))
    return Reading(plan.rate, kept, health.p99_s, p50, p99)
