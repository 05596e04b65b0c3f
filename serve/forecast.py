"""How long an engine call will take. Pure: what was measured is told, no clock is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from ..bundle.curve import curve_of
from ..bundle.evidence import LatencyCurve

DEFAULT_CURVE = LatencyCurve(base=1e-3, per_token=2e-5, per_row=0.0, per_square=0.0)
"""For an engine without a fitted curve: a small encoder on two cores; the measurements put it right."""

WEIGHT = 0.1
"""Share of the newest measurement in the correction: about twenty calls forget a change of the machine's mood."""
OUTLIER = 4.0
"""A call this many times off its forecast says no more than that: a hiccup is no new speed."""

SPREAD = 0.12
"""Mean distance of a call from its forecast, as a logarithm, before there were any."""
SURE = 2.5
"""In such distances, what nearly every call (19 of 20, by a log-normal law two sigmas) stays within."""
LEAST_MARGIN, MOST_MARGIN = 1.1, 2.5


class Forecast:
    """A curve, corrected by the ratio of measured to forecast times.

    The correction is a running geometric mean, so that a call twice too slow and one twice too fast cancel.

    Args:
        curve: the engine's fitted curve; None for one that was never measured.
    """

    def __init__(self, curve: LatencyCurve | None) -> None:
        self.curve = curve if curve and curve.seconds(1, 1) > 0 else DEFAULT_CURVE
        self._correction = 1.0
        self._spread = SPREAD
        self.margin = self._margin()
        """Nearly every call is over within its forecast times this."""

    @property
    def correction(self) -> float:
        """Measured over fitted time; 1.0 where the machine behaves as at export."""
        return self._correction

    def seconds(self, elements: int, rows: int) -> float:
        """One call of ``rows`` rows and ``elements`` elements altogether (``runtime.batching.call_size``)."""
        return self._correction * self.curve.seconds(elements, rows)

    def observe(self, elements: int, rows: int, seconds: float) -> None:
        """Learn from one finished call."""
        expected = self.seconds(elements, rows)
        if seconds > 0 and expected > 0:
            ratio = min(max(seconds / expected, 1 / OUTLIER), OUTLIER)
            self._correction *= ratio**WEIGHT
            self._spread += WEIGHT * (abs(math.log(ratio)) - self._spread)
            self.margin = self._margin()

    def fit(self, measured: Sequence[tuple[int, int, float]]) -> None:
        """Take the curve through calls measured at start, for an engine that has none of its own.

        Args:
            measured: elements, rows and seconds of each, at least one.
        """
        self.curve = curve_of([(rows, elements // rows, seconds) for elements, rows, seconds in measured])
        self._correction = 1.0

    def correct(self, measured: Sequence[tuple[int, int, float]]) -> None:
        """Set the correction by calls measured at start: the median of measured over fitted time.

        Args:
            measured: elements, rows and seconds of each.
        """
        ratios = [seconds / self.curve.seconds(elements, rows) for elements, rows, seconds in measured]
        if ratios:
            self._correction = median(ratios)

    def _margin(self) -> float:
        return min(max(math.exp(SURE * self._spread), LEAST_MARGIN), MOST_MARGIN)
