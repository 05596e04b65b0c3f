"""How long what waits for an upstream will wait, from the calls that were answered. Pure."""

from __future__ import annotations

SMOOTHING = 0.1
"""Weight of the newest call in the means."""


class Pace:
    """Mean time and size of the answered calls; 0 before the first."""

    def __init__(self) -> None:
        self.seconds = self.rows = 0.0

    def answered(self, rows: int, seconds: float) -> None:
        """A call with so many texts was answered after so long, its waiting over there counted."""
        weight = SMOOTHING if self.seconds else 1.0
        self.seconds += weight * (seconds - self.seconds)
        self.rows += weight * (rows - self.rows)

    def wait(self, rows: int, places: int) -> float:
        """Seconds until so many texts are on their way, when that many calls are always under way.

        By Little's law calls that are under way over the time of each are calls a second. 0 where nothing is known.
        """
        if not places or not self.rows:
            return 0.0
        return rows * self.seconds / (self.rows * places)
