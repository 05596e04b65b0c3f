"""When a run that may stop early is looked at, and how sure each look must be. Pure.

Looking again and again until a verdict pleases is wrong more often than a single look. So the error that a run may make
is spent over its looks: by the time t of a run of at most S seconds, ``alpha t / S`` of it (the uniform spending
function of Lan & DeMets 1983). Each look is judged by what is spent since the last one, and the chance that any of them
errs is at most their sum, however they depend on each other (Bonferroni): the error of a single look at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

from .certify import CONFIDENCE

LEAST_SECONDS = 5.0
"""No look before that: a server is still warming up."""

MOST_LOOKS = 8


@dataclass(frozen=True)
class Look:
    """One look at a run.

    Attributes:
        at_s: it judges what was due before, in seconds of the schedule.
        confidence: that it must reach.
    """

    at_s: float
    confidence: float


def draw_looks(seconds: float, confidence: float = CONFIDENCE) -> tuple[Look, ...]:
    """The looks at a run of at most so many seconds: its end, and halves of it back to 5 s or a 128th.

    Returns:
        In order of time; the last is at ``seconds``. What the looks may err with adds up to ``1 - confidence``.
    """
    times = [seconds]
    while len(times) < MOST_LOOKS and times[-1] / 2.0 >= LEAST_SECONDS:
        times.append(times[-1] / 2.0)
    times.reverse()
    spent = zip(times, [0.0, *times], strict=False)
    return tuple(Look(at, 1.0 - (1.0 - confidence) * (at - before) / seconds) for at, before in spent)
