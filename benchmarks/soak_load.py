"""The soak's rate: how much the server takes when it is asked without a pause, and then arrivals at a share of that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np

from .soak_texts import SoakText
from .soak_traffic import GrpcUser, HttpUser, use_once

User = HttpUser | GrpcUser


async def capacity(
    users: Sequence[User], texts: Sequence[SoakText], rngs: Sequence[np.random.Generator], seconds: float
) -> float:
    """Requests a second, of the soak's own mix, that all users together get through, each one after the other."""
    started = time.monotonic()

    async def until_the_end(user: User, rng: np.random.Generator) -> int:
        done = 0
        while time.monotonic() < started + seconds:
            await use_once(user, texts, rng)
            done += 1
        return done

    done = await asyncio.gather(*(until_the_end(user, rng) for user, rng in zip(users, rngs, strict=True)))
    return sum(done) / (time.monotonic() - started)


class Arrivals:
    """Requests at random times (Poisson), whatever became of those before, each by a user who is free.

    Attributes:
        times: of each request for an answer: when it was due, in seconds since the start, and the seconds from then to
            its end; the wait for a free user counts.
    """

    def __init__(self, users: Sequence[User], texts: Sequence[SoakText]) -> None:
        self._texts = texts
        self._free: asyncio.Queue[User] = asyncio.Queue()
        for user in users:
            self._free.put_nowait(user)
        self._open: set[asyncio.Task[None]] = set()
        self.times: list[tuple[float, float]] = []

    async def run(self, rate: float, seconds: float, rng: np.random.Generator) -> None:
        """``rate`` arrivals a second for so many seconds; ends when all are answered."""
        started = due = time.monotonic()
        while (due := due + rng.exponential(1 / rate)) < started + seconds:
            await asyncio.sleep(max(due - time.monotonic(), 0.0))
            user = await self._free.get()
            task = asyncio.ensure_future(self._one(user, due, started, rng.spawn(1)[0]))
            self._open.add(task)
            task.add_done_callback(self._open.discard)
        if self._open:
            await asyncio.gather(*self._open)

    async def _one(self, user: User, due: float, started: float, rng: np.random.Generator) -> None:
        faults = user.books.faults.total()
        kind = await use_once(user, self._texts, rng)
        if kind == "answer":
            self.times.append((due - started, time.monotonic() - due))
        if user.books.faults.total() > faults:
            await asyncio.sleep(0.1)  # a dead server is not to be stormed
        self._free.put_nowait(user)
