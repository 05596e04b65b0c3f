"""Optimisation profiles: the shapes that a TensorRT engine is built for, from the lengths of real texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...bundle.errors import EngineFailed, InvalidInput
from ...runtime.calls import MAX_ROWS

USUAL_ROWS = 8
"""Rows that batched calls are tuned for."""
TILE = 8
"""Lengths are tuned for multiples of this: tensor cores take halves by eights."""


@dataclass(frozen=True)
class Profile:
    """Least, usual and most of each axis, rows and tokens of a row.

    Raises:
        InvalidInput: least <= usual <= most doesn't hold, or something is below 1.
    """

    rows: tuple[int, int, int]
    length: tuple[int, int, int]

    def __post_init__(self) -> None:
        for axis, (least, usual, most) in (("rows", self.rows), ("length", self.length)):
            if not 1 <= least <= usual <= most:
                raise InvalidInput(
                    f"profile: {axis}", found=f"{least}, {usual}, {most}", wanted="1 <= least <= usual <= most"
                )

    def shapes(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Least, usual and most [rows, length]."""
        least, usual, most = zip(self.rows, self.length, strict=True)
        return (least[0], least[1]), (usual[0], usual[1]), (most[0], most[1])

    def __str__(self) -> str:
        """For sidecars and tables, e.g. ``rows 1..8..32, length 1..24..512``."""
        return "rows {}..{}..{}, length {}..{}..{}".format(*self.rows, *self.length)


def profiles_of(lengths: Sequence[int], usable: int, *, rows: int = MAX_ROWS) -> tuple[Profile, ...]:
    """A profile for texts alone and one for batches, tuned for the lengths that really come.

    A text alone is tuned for the median length, a batch for the ninth decile, to which its rows are padded. Both reach
    from one token to the usable length and never past it: builders would only warn, and the engine read positions that
    the model doesn't have.

    Args:
        lengths: tokens of real rows.
        usable: most tokens of a row.
        rows: most rows of a call.
    """
    ordered = sorted(min(length, usable) for length in lengths) or [usable]
    middle = _tile(ordered[len(ordered) // 2], usable)
    long = _tile(ordered[min(len(ordered) - 1, 9 * len(ordered) // 10)], usable)
    alone = Profile((1, 1, 1), (1, middle, usable))
    if rows == 1:
        return (alone,)
    return alone, Profile((1, min(USUAL_ROWS, rows), rows), (1, long, usable))


def check_profiles(profiles: Sequence[Profile], usable: int) -> None:
    """See that there are profiles, and that none reaches past the usable length.

    Raises:
        EngineFailed: none, or one does.
    """
    if not profiles:
        raise EngineFailed("profiles of the engine", found="none", wanted="one with the shapes of all inputs")
    for profile in profiles:
        if profile.length[2] > usable:
            raise EngineFailed(
                f"profile {profile}", found=f"{profile.length[2]} tokens", wanted=f"at most {usable}, the model's own"
            )


def _tile(length: int, usable: int) -> int:
    return min(usable, -(-length // TILE) * TILE)
