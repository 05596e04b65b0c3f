"""Who leads a call when no waiting row has the time for a full one. Pure."""

from __future__ import annotations

from collections.abc import Sequence

SHARES = (1 / 2, 1 / 4, 0)
"""Of a full call: the larger the call that a row leaves time for, the less it costs the others."""


def second_best(rows: Sequence[tuple[float, float]], full: float, margin: float) -> tuple[int | None, bool]:
    """The row to run.

    Args:
        rows: in the order of service: seconds that are left to each, and the forecast seconds of its call alone.
        full: seconds of a full call, with margin.
        margin: of the forecast of a call alone.

    Returns:
        Its place, and whether it can be met; one that probably can't is that with the most time. None without rows.
    """
    for share in SHARES:
        for place, (left, alone) in enumerate(rows):
            if left >= max(share * full, margin * alone):
                return place, True
    return max(range(len(rows)), key=lambda place: rows[place][0], default=None), False
