"""When to try again, and when not to. Pure: chance and time are arguments.

An inference changes nothing on the server, so a repeated one is harmless but for its cost. What is tried again:

- what never began: no connection could be made, or the server refused (``Overloaded``, ``Unavailable``), after the time
  the server names and no earlier;
- once a call, a connection that was lost before the first byte of the answer: at once if it had been idle before,
  since then the server has most likely closed it as the request was on its way. Only once: a request that ends its
  server must not be carried on to the next ones.

Nothing else is: not what the caller must mend, not what ran and failed, not what took too long, not half an answer.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ..bundle.errors import InvalidInput, NlpdeployError


class Fate(enum.Enum):
    """What became of a request that failed."""

    NOT_BEGUN = "never sent, or refused unread or unrun"
    STALE = "its connection, used before, was closed before the first byte of the answer"
    LOST = "its new connection was lost before the first byte of the answer"
    FINAL = "answered with an error, or answered in part, or out of time"


class Failed(Exception):
    """A try that failed; stays inside this room.

    Args:
        error: what the caller is told if it was the last one.
        fate: what became of the request.
        hint: seconds after which the server says that trying again may help.
    """

    def __init__(self, error: NlpdeployError, fate: Fate = Fate.FINAL, hint: float = 0.0) -> None:
        self.error, self.fate, self.hint = error, fate, hint
        super().__init__(error.line())


@dataclass(frozen=True)
class Retry:
    """How often, and how patiently.

    The pause before try ``n + 1`` is drawn evenly from 0 to ``min(longest, first * 2**(n - 1))`` ("full jitter":
    callers that failed together don't come back together; M. Brooker, "Exponential Backoff and Jitter", AWS
    Architecture Blog, 2015), and comes on top of the time that the server names.

    Attributes:
        tries: how often a request is sent at most; 1 for never again.
        first: seconds, upper bound of the first pause.
        longest: seconds, upper bound of all pauses.
    """

    tries: int = 3
    first: float = 0.05
    longest: float = 1.0

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise InvalidInput("tries", found=self.tries, wanted="at least 1")
        if not 0 <= self.first <= self.longest < float("inf"):
            raise InvalidInput("pauses", found=f"{self.first} to {self.longest} s", wanted="0 <= first <= longest")


PROBE = Retry(tries=2, first=0.0, longest=0.0)
"""For a question whether somebody is there: again only at once, since the connection may have been a stale one."""


class Tries:
    """The tries of one call."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._done = 0
        self._lost = False

    def pause(self, failed: Failed, left: float, chance: float) -> float | None:
        """Seconds to wait before the next try; None if there is none.

        Args:
            failed: how the last try ended.
            left: seconds until the deadline; a try that could only begin after it is not waited for.
            chance: drawn evenly from 0 to 1.
        """
        self._done += 1
        if failed.fate is Fate.FINAL or self._done >= self._retry.tries:
            return None
        if failed.fate in (Fate.STALE, Fate.LOST):
            if self._lost:
                return None
            self._lost = True
        jitter = chance * min(self._retry.longest, self._retry.first * 2.0 ** min(self._done - 1, 60))
        pause = 0.0 if failed.fate is Fate.STALE else failed.hint + jitter
        return pause if pause < left else None
