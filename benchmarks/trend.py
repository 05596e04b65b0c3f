"""Whether a series rises: Theil and Sen's slope with Kendall's interval. Pure.

Sen, "Estimates of the regression coefficient based on Kendall's tau", 1968: the slope is the median of the slopes of
all pairs, the interval lies between two of them in order; neither asks for normal noise, and a few odd windows move
neither. The interval takes the windows for independent. Memory's are not, they keep what came before; so a bound on the
rise itself stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

CONFIDENCE = 0.99
LEAST_WINDOWS = 8
"""Below, the interval of so many pairs says nothing."""


@dataclass(frozen=True)
class Trend:
    """How a series went over its whole length, as a share of its level.

    Attributes:
        level: median.
        rise: the slope over the whole series, over the level.
        low: lower end of the interval of the rise.
        high: upper end.
    """

    level: float
    rise: float
    low: float
    high: float

    def rises(self, at_most: float) -> bool:
        """Whether it rises beyond doubt, and by more than ``at_most`` of its level."""
        return self.low > 0 and self.rise > at_most

    def __str__(self) -> str:
        return f"{self.rise:+.1%} ({self.low:+.1%} to {self.high:+.1%})"


def trend(windows: Sequence[float]) -> Trend:
    """The trend of one value a window, in order of time.

    Args:
        windows: at least ``LEAST_WINDOWS``, above zero.
    """
    count = len(windows)
    if count < LEAST_WINDOWS or min(windows) <= 0:
        raise ValueError(f"{count} windows, the least {min(windows, default=0)}; wanted {LEAST_WINDOWS} above 0")
    level = median(windows)
    slopes = sorted(
        (windows[later] - windows[earlier]) / (later - earlier)
        for earlier in range(count)
        for later in range(earlier + 1, count)
    )
    spread = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    first = max(math.floor((len(slopes) - spread) / 2), 0)
    last = len(slopes) - 1 - first
    rise, low, high = ((count - 1) * slope / level for slope in (median(slopes), slopes[first], slopes[last]))
    return Trend(level, rise, low, high)
