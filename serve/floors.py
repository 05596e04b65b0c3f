"""How few tokens a request has that nobody has read yet, by the size of its message. Pure."""

from __future__ import annotations

import math
from collections.abc import Hashable

WINDOW = 64
"""Requests after which what was learned begins to be forgotten; after twice as many it is."""
LEAST_SEEN = 8
"""Requests of a size before anything is said of it but that a row has a token."""
FINE = 4
"""Leading bits of a size: sizes that differ by less than a sixteenth to an eighth are one."""


class TokenFloors:
    """The fewest tokens that the first row had, of late, in requests of like form and size.

    One that has fewer is taken for longer than it is by the difference, which is less than one row's time.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[Hashable, int, int], _Window] = {}

    def see(self, form: Hashable, size: int, tokens: int) -> None:
        """A request of ``size`` bytes had so many tokens in its first row."""
        key = _key(form, size)
        window = self._seen.get(key)
        if window is None:
            window = self._seen[key] = _Window()
        window.see(tokens)

    def floor(self, form: Hashable, size: int) -> int:
        """Tokens that the first row of such a request has at least; 1 where few or none were seen."""
        window = self._seen.get(_key(form, size))
        return window.floor if window else 1


class _Window:
    __slots__ = ("_before", "_count", "_least", "floor")

    def __init__(self) -> None:
        self.floor, self._count = 1, 0
        self._least = self._before = math.inf

    def see(self, tokens: int) -> None:
        self._count += 1
        self._least = min(self._least, tokens)
        if self._count >= LEAST_SEEN or not math.isinf(self._before):
            self.floor = int(min(self._least, self._before))
        if self._count == WINDOW:
            self._before, self._least, self._count = self._least, math.inf, 0


def _key(form: Hashable, size: int) -> tuple[Hashable, int, int]:
    shift = max(size.bit_length() - FINE, 0)
    return form, shift, size >> shift
