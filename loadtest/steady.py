"""Which part of a run is steady: the warm-up is cut off, and a run that never settles is named as such. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..bundle.compare import quantile
from .student import student_quantile

WARM_UP_SHARES = (0.05, 0.1, 0.15, 0.2)
"""The warm-up is the first of these shares of the run after which the rest is steady; more than a fifth is none."""

WARM_UP_SLOWER = 1.5
"""What is cut off must have this multiple of the rest's median: a beginning that is no slower is no warm-up."""

WINDOW_SPREAD = 0.10
"""The mean latencies of three windows of a steady run lie within this share of the smallest."""

_PROBES = 200
_GROUPS = 20
_SLOPE_CONFIDENCE = 0.99


@dataclass(frozen=True)
class Steady:
    """The steady part of a run.

    Attributes:
        start_s: where it starts, in seconds of the schedule; what is due before is warm-up.
        windows_s: the mean latencies of its three windows in seconds, of good answers (failures are counted elsewhere);
            NaN where a window has none.
        rise: by how many requests the number in flight grew from its start to its end, by a straight line.
        growing: that growth is neither chance nor small: arrivals outrun the server.
        agreeing: the three windows lie within 10 %.
    """

    start_s: float
    windows_s: tuple[float, float, float]
    rise: float
    growing: bool
    agreeing: bool

    @property
    def stable(self) -> bool:
        """Steady from ``start_s`` on."""
        return self.agreeing and not self.growing


def steady_window(
    scheduled: npt.NDArray[np.float64],
    latency: npt.NDArray[np.float64],
    ended: npt.NDArray[np.float64],
    seconds: float,
) -> Steady:
    """Find the steady part.

    Args:
        scheduled: [n] seconds, increasing.
        latency: [n] seconds, infinite where there was no good answer.
        ended: [n] seconds on the clock of ``scheduled``; NaN where a request never ended or was not sent.
        seconds: length of the schedule.

    Returns:
        The part after the shortest warm-up that leaves a steady rest; where none does, the whole run, so that nothing
        is excused, with what is unsteady about it.
    """
    whole = _describe(scheduled, latency, ended, 0.0, seconds)
    if whole.stable:
        return whole
    for share in WARM_UP_SHARES:
        part = _describe(scheduled, latency, ended, share * seconds, seconds)
        if part.stable and _slower(latency, int(np.searchsorted(scheduled, part.start_s))):
            return part
    return whole


def thirds(
    scheduled: npt.NDArray[np.float64], values: npt.NDArray[np.float64], start_s: float, seconds: float
) -> list[npt.NDArray[np.float64]]:
    """``values`` of the requests due in each third of [start_s, seconds)."""
    cuts = np.searchsorted(scheduled, np.linspace(start_s, seconds, 4)).tolist()
    return [values[low:high] for low, high in pairwise(cuts)]


def in_flight(
    scheduled: npt.NDArray[np.float64], ended: npt.NDArray[np.float64], times: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Requests due and not ended at each of ``times``: float64 [len(times)]; a request without an end stays."""
    begun = np.searchsorted(scheduled, times, side="right")
    # Stable: it is quick where, as here, most stand in order already.
    done = np.searchsorted(np.sort(ended[~np.isnan(ended)], kind="stable"), times, side="right")
    return np.asarray(begun - done, dtype=np.float64)


def _describe(
    scheduled: npt.NDArray[np.float64],
    latency: npt.NDArray[np.float64],
    ended: npt.NDArray[np.float64],
    start_s: float,
    seconds: float,
) -> Steady:
    answered = [part[np.isfinite(part)] for part in thirds(scheduled, latency, start_s, seconds)]
    first, second, third = (float(part.mean()) if len(part) else math.nan for part in answered)
    means = (first, second, third)
    agreeing = not any(map(math.isnan, means)) and max(means) <= (1.0 + WINDOW_SPREAD) * min(means)
    rise, growing = _growth(scheduled, ended, start_s, seconds)
    return Steady(start_s, means, rise, growing, agreeing)


def _slower(latency: npt.NDArray[np.float64], cut: int) -> bool:
    """Whether the requests before ``cut`` were clearly slower than those from it on."""
    if not 0 < cut < len(latency):
        return False
    return quantile(latency[:cut], 0.5) >= WARM_UP_SLOWER * quantile(latency[cut:], 0.5)


def _growth(
    scheduled: npt.NDArray[np.float64], ended: npt.NDArray[np.float64], start_s: float, seconds: float
) -> tuple[float, bool]:
    """The rise of the in-flight count over the part, and whether it is real.

    Real is a slope above zero with 99 % (least squares over the means of 20 consecutive groups of probes, which are far
    less correlated than single probes) that adds more than one request and more than a tenth of the mean count.
    """
    times = start_s + (np.arange(_PROBES) + 0.5) * (seconds - start_s) / _PROBES
    means = in_flight(scheduled, ended, times).reshape(_GROUPS, -1).mean(axis=1)
    x = (np.arange(_GROUPS) + 0.5) / _GROUPS - 0.5
    square = float((x * x).sum())
    rise = float((x * means).sum()) / square
    residuals = means - means.mean() - rise * x
    error = math.sqrt(float((residuals * residuals).sum()) / (_GROUPS - 2) / square)
    real = rise > student_quantile(_SLOPE_CONFIDENCE, _GROUPS - 2) * error
    return rise, real and rise > max(1.0, 0.1 * float(means.mean()))
