"""How many cores this process may really use (cgroup quota, CPU affinity), and what they can compute."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class CoreLimits:
    """What bounds the cores of this process.

    Attributes:
        logical: of the machine.
        affinity: that the process may be scheduled on.
        quota: CPUs' worth of time that the cgroup gives; None where it sets no limit.
    """

    logical: int
    affinity: int
    quota: float | None

    @property
    def usable(self) -> int:
        """Cores, at least 1: the smaller of the affinity mask and the CPU quota rounded up."""
        return max(1, min(self.affinity, math.ceil(self.quota) if self.quota else self.affinity))


def core_limits(cgroup: Path = CGROUP) -> CoreLimits:
    """What bounds the cores of this process."""
    logical = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    return CoreLimits(logical, affinity, _quota(cgroup))


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Cores for this process, as :class:`CoreLimits` says."""
    return core_limits(cgroup).usable


def _quota(cgroup: Path) -> float | None:
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()  # version 2
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit_us = int((cgroup / "cpu/cpu.cfs_quota_us").read_text())  # version 1
        return limit_us / int((cgroup / "cpu/cpu.cfs_period_us").read_text()) if limit_us > 0 else None
    except (OSError, ValueError):
        return None


def instruction_sets() -> frozenset[str]:
    """The CPU flags that decide which engines are fast or exact here, e.g. ``avx2``, ``avx512_vnni``, ``amx_bf16``."""
    wanted = {
        "avx2",
        "avx512f",
        "avx_vnni",
        "avx512_vnni",
        "avx512_bf16",
        "amx_bf16",
        "amx_int8",
        "avx512_fp16",
        "asimd",
        "i8mm",
        "bf16",
    }
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(flags.partition(":")[2].split()) & wanted
