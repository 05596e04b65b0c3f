"""How much this machine's client can offer, as ``loadtest calibrate`` found it and kept it for later runs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..bundle.errors import StoreFailed


@dataclass(frozen=True)
class Calibration:
    """What this machine's client can do.

    Attributes:
        transport: ``grpc`` or ``http``.
        workers: Locust processes.
        max_rate: the highest rate tried at which the schedule was kept, over all workers; 0 if at none.
        lateness_p99_ms: at that rate.
        floor_p50_ms, floor_p99_ms: latency at the lowest rate: what every measured latency contains of the client.
        limit: why not more, e.g. ``at 1700/s the p99 of its lateness was 1.3 ms``.
        machine: where.
        when: UTC.
    """

    transport: str
    workers: int
    max_rate: float
    lateness_p99_ms: float
    floor_p50_ms: float
    floor_p99_ms: float
    limit: str
    machine: str
    when: str

    def fault(self, rate: float) -> str | None:
        """Why a run at a rate can't be believed; None if it can."""
        if rate <= self.max_rate:
            return None
        return (
            f"{rate:g}/s is more than this client keeps on schedule: {self.max_rate:.0f}/s over {self.transport} with "
            f"{self.workers} {'worker' if self.workers == 1 else 'workers'}, as calibrated {self.when}"
        )


def keep(found: Calibration) -> Path:
    """Write it for later runs of this user on this machine; the file.

    Raises:
        StoreFailed: the folder can't be written.
    """
    path = _path(found.transport, found.workers)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(asdict(found), indent=2), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise StoreFailed("calibration", found=error, mend="name a folder with XDG_CACHE_HOME") from error
    return path


def tightest(urls: Iterable[str], workers: int) -> Calibration | None:
    """Of this machine's calibrations for some addresses' transports, the one with the lowest rate; None without any."""
    found = [one for url in urls if (one := _known(url, workers)) is not None]
    return min(found, key=lambda one: one.max_rate, default=None)


def _known(url: str, workers: int) -> Calibration | None:
    try:
        value = json.loads(_path("grpc" if url.startswith("grpc:") else "http", workers).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = from_json(value)
    return found if found is not None and found.machine == machine() else None


def from_json(value: Any) -> Calibration | None:
    """A stored one; None where it is none."""
    try:
        return Calibration(**value)
    except TypeError:
        return None


def _path(transport: str, workers: int) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "nlpdeploy" / f"client-{platform.node()}-{transport}-{workers}.json"


def machine() -> str:
    """This one, as far as a calibration depends on it."""
    return f"{platform.node()}, {platform.machine()}, {len(os.sched_getaffinity(0))} CPUs"
