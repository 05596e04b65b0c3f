"""The highest rate that keeps a target: a search over trials, each of which only says yes or no. Pure."""

from __future__ import annotations

import math

GROWTH = 1.5
"""By how much the rate moves while only one side of the boundary is known."""

CLOSE = 1.06
"""The search ends once the lowest rate that failed is within this factor of the highest that held."""

LEAST_REQUESTS = 200


class RateSearch:
    """Brackets the boundary, then halves the bracket on a logarithmic scale.

    Args:
        start: first rate tried, requests a second.
        trials: most trials.
        least: below this rate the search gives up.

    Attributes:
        held: highest rate that kept the target below all that failed; 0 where none did.
        failed: lowest rate that failed above ``held``; infinite where none did.
    """

    def __init__(self, start: float, *, trials: int, least: float = 1.0) -> None:
        self.held = 0.0
        self.failed = math.inf
        self.left = trials
        self._next = max(start, least)
        self._least = least

    @property
    def done(self) -> bool:
        """Whether no further trial is wanted."""
        return self.left <= 0 or self.failed <= max(self.held * CLOSE, self._least)

    @property
    def bracketed(self) -> bool:
        """Whether both a rate that held and one that failed are known."""
        return self.held > 0 and math.isfinite(self.failed)

    def next_rate(self) -> float:
        """The rate to try now."""
        return self._next

    def report(self, held: bool) -> None:
        """Say whether the rate of :meth:`next_rate` kept the target."""
        rate, self.left = self._next, self.left - 1
        if held:
            self.held = max(self.held, rate)
        else:
            self.failed = min(self.failed, rate)
        if not math.isfinite(self.failed):
            self._next = rate * GROWTH
        elif self.held == 0:
            self._next = max(rate / GROWTH**2, self._least)
        else:
            self._next = math.sqrt(self.held * self.failed)


def trial_length(rate: float, seconds: float) -> float:
    """Seconds of a trial: longer at low rates, up to three times, so that its p99 isn't that of a handful."""
    return min(max(seconds, LEAST_REQUESTS / rate), 3 * seconds)


def allowed_misses(planned: int, share: float = 0.01) -> int:
    """How many of ``planned`` requests may miss a limit with the nearest-rank ``1 - share`` quantile within it."""
    return math.floor(share * planned + 1e-9)
