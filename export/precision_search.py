"""The smallest set that passes, by delta debugging: pure, knows no graph and no engine.

Zeller & Hildebrandt 2002 (https://doi.org/10.1109/32.988498), complements alone: the set is made smaller by taking
parts out, first large ones, in the end one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Judge = Callable[[frozenset[str]], str | None]
"""Told the names that are kept; answers why that doesn't pass, or None."""


class BudgetSpent(Exception):
    """No evaluation is left; what was found so far holds."""


class Trials:
    """A judge that is asked once for each set, and so many times at most.

    Args:
        judge: what a set is worth; slow.
        most: evaluations allowed.

    Attributes:
        spent: evaluations so far.
        last: what the last one answered.
    """

    def __init__(self, judge: Judge, most: int) -> None:
        self._judge = judge
        self._most = most
        self._known: dict[frozenset[str], str | None] = {}
        self.spent = 0
        self.last: str | None = None

    def forget(self) -> None:
        """The judge has learned something: every set is asked anew; what is spent stays spent."""
        self._known.clear()

    def ask(self, names: Iterable[str]) -> str | None:
        """Why the set doesn't pass; None where it does.

        Raises:
            BudgetSpent: it would take one evaluation too many.
        """
        key = frozenset(names)
        if key not in self._known:
            if self.spent >= self._most:
                raise BudgetSpent
            self.spent += 1
            self._known[key] = self.last = self._judge(key)
        return self._known[key]


@dataclass(frozen=True)
class Shrunk:
    """A set that passes.

    Attributes:
        names: in the order given.
        without: for each name that was tried alone, why it doesn't pass without it.
        minimal: every name was.
    """

    names: tuple[str, ...]
    without: dict[str, str]
    minimal: bool


def first_passing(stages: Iterable[Sequence[str]], trials: Trials) -> Sequence[str] | None:
    """The first of the sets, each wider than the one before, that passes; None where none does or the budget ends."""
    try:
        return next((names for names in stages if trials.ask(names) is None), None)
    except BudgetSpent:
        return None


def shrink(names: Sequence[str], trials: Trials) -> Shrunk:
    """Take out of a set that passes what it passes without.

    Neighbours in the order given are taken out together: what belongs together should stand together. A name that
    couldn't be spared from a larger set is taken to be needed in a smaller one too.

    Args:
        names: a set that passes.
        trials: who judges; where its budget ends, so does the search.
    """
    kept = list(names)
    without: dict[str, str] = {}
    size = max(1, len(kept) // 2)
    try:
        while kept:
            start = 0
            while start < len(kept):
                part = kept[start : start + size]
                rest = kept[:start] + kept[start + size :]
                reason = trials.ask(rest)
                if reason is None:
                    kept = rest
                    continue
                if size == 1:
                    without[part[0]] = reason
                start += size
            if size == 1:
                break
            size = max(1, min(size, len(kept)) // 2)
    except BudgetSpent:
        pass
    return Shrunk(tuple(kept), {n: without[n] for n in kept if n in without}, all(n in without for n in kept))
