"""What is wanted of our front, and what came of it: ratios of the same rounds, and plain limits. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..samples import Spread, ratios, spread
from .book import Book


@dataclass(frozen=True)
class Wanted:
    """One thing wanted of one way.

    Attributes:
        what: in words, e.g. ``gRPC p50, 1 client``.
        way: ours.
        part: of the book.
        measure: of the book.
        limit: of the ratio, or of the value itself where it is compared with nothing.
        least: whether the limit is a lower one.
        against: the ways of which the best one by median is the divisor; empty for the value itself.
        minus: subtract instead of dividing.
        must: a must, else a goal.
    """

    what: str
    way: str
    part: str
    measure: str
    limit: float
    least: bool
    against: tuple[str, ...] = ()
    minus: bool = False
    must: bool = True


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        wanted: what was wanted.
        value: ratio, difference or value over the rounds; None where one of the two sides was not measured.
        rival: the best of those that it is compared with.
    """

    wanted: Wanted
    value: Spread | None
    rival: str | None

    @property
    def met(self) -> bool | None:
        """Whether the median is within the limit; None where it isn't known."""
        if self.value is None:
            return None
        return self.value.median >= self.wanted.limit if self.wanted.least else self.value.median <= self.wanted.limit

    def line(self) -> str:
        """E.g. ``gRPC p50, 1 client: 0.58 [0.57, 0.60] x of PyTriton … (wanted <= 0.65): met``."""
        wanted = self.wanted
        sign = ">=" if wanted.least else "<="
        asked = f"({'wanted' if wanted.must else 'goal'} {sign} {wanted.limit:g})"
        if self.value is None:
            missing = "nothing to compare it with" if wanted.against and self.rival is None else "not measured"
            return f"{wanted.what}: {missing} {asked}"
        how = "" if self.rival is None else f" over {self.rival}" if wanted.minus else f" x of {self.rival}"
        return f"{wanted.what}: {self.value:.3g}{how} {asked}: {'met' if self.met else 'NOT met'}"


def judge(book: Book, wanted: Wanted) -> Outcome:
    """Take the ratio or difference round by round, and sum it up."""
    ours = book.samples(wanted.part, wanted.measure, wanted.way)
    if not wanted.against:
        return Outcome(wanted, spread(ours) if ours else None, None)
    rival = book.best(wanted.part, wanted.measure, wanted.against, most=wanted.least)
    if rival is None or not ours:
        return Outcome(wanted, None, rival)
    theirs = book.samples(wanted.part, wanted.measure, rival)
    rounds = min(len(ours), len(theirs))  # a way that broke has fewer
    if wanted.minus:
        value = spread([a - b for a, b in zip(ours[:rounds], theirs[:rounds], strict=True)])
    elif any(value <= 0 for value in theirs[:rounds]):
        return Outcome(wanted, None, rival)
    else:
        value = ratios(ours[:rounds], theirs[:rounds])
    return Outcome(wanted, value, rival)


def judge_all(book: Book, all_wanted: Sequence[Wanted]) -> list[Outcome]:
    """Each in turn."""
    return [judge(book, wanted) for wanted in all_wanted]
