"""What must hold at the soak's end: memory and the 99th percentile that don't rise, and books that balance. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nlpdeploy.bundle.compare import quantile

from .soak_traffic import Books
from .trend import LEAST_WINDOWS, Trend, trend

MOST_GROWTH = 0.05
MOST_RISE_OF_MEMORY = 0.02
MOST_RISE_OF_P99 = 0.10
WINDOWS = 20
LEAST_OF_A_WINDOW = 100
"""Answers of a window, below which its 99th percentile is its largest value and no more."""


@dataclass(frozen=True)
class Check:
    """One thing that must hold."""

    what: str
    found: str
    passed: bool


@dataclass(frozen=True)
class Memory:
    """Resident memory of the server, in MiB.

    Attributes:
        after_first_quarter: median over the tenth of the run that follows its first quarter.
        at_the_end: median over the last tenth.
        peak: largest sample.
        trend: of the windows' medians after the first quarter, in which every shape comes for the first time.
        samples: one a second.
    """

    after_first_quarter: float
    at_the_end: float
    peak: float
    trend: Trend
    samples: tuple[float, ...]

    @property
    def growth(self) -> float:
        """Share by which it grew."""
        return self.at_the_end / self.after_first_quarter - 1


@dataclass(frozen=True)
class Waits:
    """Milliseconds from when a request was due to the end of its answer.

    Attributes:
        count: answers.
        p50: of all.
        p99: of all.
        windows: the 99th percentile of each window after the first quarter.
        trend: of ``windows``; None where they hold too few answers to tell.
    """

    count: int
    p50: float
    p99: float
    windows: tuple[float, ...]
    trend: Trend | None


def memory_of(samples: Sequence[float]) -> Memory:
    """From one sample a second, at least ``2 * WINDOWS``."""
    quarter, tenth = len(samples) // 4, max(1, len(samples) // 10)
    parts = np.array_split(np.array(samples[quarter:]), WINDOWS)
    return Memory(
        after_first_quarter=float(np.median(samples[quarter : quarter + tenth])),
        at_the_end=float(np.median(samples[-tenth:])),
        peak=max(samples),
        trend=trend([float(np.median(part)) for part in parts]),
        samples=tuple(round(sample, 1) for sample in samples),
    )


def waits_of(times: Sequence[tuple[float, float]], seconds: float) -> Waits:
    """From (due, waited) in seconds, of a run of so many seconds."""
    spent = [1000 * waited for _, waited in times]
    first = seconds / 4
    late = [(due, 1000 * waited) for due, waited in times if due >= first]
    count = max(min(WINDOWS, len(late) // LEAST_OF_A_WINDOW), 1)
    parts: list[list[float]] = [[] for _ in range(count)]
    for due, waited in late:
        parts[min(int((due - first) / (seconds - first) * count), count - 1)].append(waited)
    windows = tuple(quantile(part, 0.99) for part in parts if part)
    return Waits(
        count=len(spent),
        p50=quantile(spent, 0.50) if spent else 0.0,
        p99=quantile(spent, 0.99) if spent else 0.0,
        windows=windows,
        trend=trend(windows) if len(windows) >= LEAST_WINDOWS else None,
    )


def checks_of(books: Books, memory: Memory, waits: Waits, left: dict[str, float], status: int) -> list[Check]:
    """All that must hold."""
    sent, ended = sum(books.sent.values()), sum(books.ended.values())
    faults = sum(books.faults.values())
    open_now = ", ".join(f"{name} {value:.0f}" for name, value in left.items()) or "no such metrics"
    return [
        Check(
            f"memory grows by at most {MOST_GROWTH:.0%} after the first quarter",
            f"{memory.growth:+.1%}",
            0 < memory.at_the_end <= (1 + MOST_GROWTH) * memory.after_first_quarter,
        ),
        Check(
            f"memory has no slope: not above 0 with 99 %, or a rise of at most {MOST_RISE_OF_MEMORY:.0%}",
            str(memory.trend),
            not memory.trend.rises(MOST_RISE_OF_MEMORY),
        ),
        Check(
            f"p99 has no slope: not above 0 with 99 %, or a rise of at most {MOST_RISE_OF_P99:.0%}",
            str(waits.trend) if waits.trend else f"too few answers to tell, {waits.count}",
            waits.trend is not None and not waits.trend.rises(MOST_RISE_OF_P99),
        ),
        Check("each request ends once", f"{sent} sent, {ended} ended", sent == ended > 0),
        Check("no request ends as it must not", f"{faults} faults", faults == 0),
        Check(
            "every label and score as in process",
            f"{books.wrong} of {books.wrong + books.texts} texts wrong",
            books.wrong == 0 < books.texts,
        ),
        Check("nothing is left open or waiting", open_now, bool(left) and not any(left.values())),
        Check("SIGTERM drains the server with status 0", f"status {status}", status == 0),
    ]
