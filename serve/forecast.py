"""How long an engine call will take. Pure: what was measured is told, no clock is read."""

from __future__ import annotations

import math

from ..bundle.evidence import LatencyCurve

DEFAULT_CURVE = LatencyCurve(base=1e-3, per_token=2e-5, per_row=0.0, per_square=0.0)
"""For an engine without a fitted curve: a small encoder on two cores; the measurements put it right."""

WEIGHT = 0.1
"""Share of the newest measurement in the correction: about twenty calls forget a change of the machine's mood."""


class Forecast:
    """The curve from export, corrected by the ratio of measured to forecast times.

    The correction is a running geometric mean, so that a call ten times too slow and one ten times too fast cancel.

    Args:
        curve: the engine's fitted curve; None for one that was never measured.
    """

    def __init__(self, curve: LatencyCurve | None) -> None:
        self._curve = curve or DEFAULT_CURVE
        self._correction = 1.0

    @property
    def correction(self) -> float:
        """Measured over fitted time; 1.0 where the machine behaves as at export."""
        return self._correction

    def seconds(self, elements: int, rows: int) -> float:
        """One call with ``rows`` rows padded to ``elements`` elements altogether."""
        return self._correction * self._curve.seconds(elements, rows)

    def backlog(self, tokens: int, rows: int, *, max_tokens: int, max_rows: int) -> float:
        """All calls that ``rows`` waiting rows with ``tokens`` tokens altogether need, in full batches, one engine."""
        if rows == 0:
            return 0.0
        calls = math.ceil(max(tokens / max_tokens, rows / max_rows))
        return calls * self.seconds(math.ceil(tokens / calls), math.ceil(rows / calls))

    def observe(self, elements: int, rows: int, seconds: float) -> None:
        """Learn from one finished call."""
        expected = self._curve.seconds(elements, rows)
        if seconds > 0 and expected > 0:
            self._correction = self._correction ** (1 - WEIGHT) * (seconds / expected) ** WEIGHT
