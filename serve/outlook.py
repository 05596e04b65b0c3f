"""When work that waits will be done, by the state of the lanes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outlook:
    """Lanes that take full calls in turn as they become free; the last call holds what is left.

    Attributes:
        free: when each lane will be free, the first first; monotonic seconds.
        full: seconds of a full call.
        least: seconds of the shortest call. One that is not full takes longer than its part of a full one, since its
            fixed cost stays.
    """

    free: Sequence[float]
    full: float
    least: float

    def end_of(self, ahead: float, own: float, total: float) -> float:
        """When a row is answered, in seconds of work: its own, what goes before it, and all that waits with it."""
        lanes, full = len(self.free), self.full
        calls = int(ahead / full)
        start = self.free[calls % lanes] + calls // lanes * full
        if own >= full:
            return start + own
        filled = max(min(total - calls * full, full), 0.0)
        return start + self.least + filled * (1 - self.least / full)
