"""The open loop: requests leave at times drawn beforehand, whatever became of those before them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import numpy as np

from nlpdeploy.bundle.compare import quantile

from ..http_clients import AsyncHttp
from .links import REQUEST_SECONDS, Refused, Send, grpc_link, read_asks
from .rates import allowed_misses
from .requests import Ask

MOST_UNDER_WAY = 1024
"""Requests without an answer; the next one counts as missed and isn't sent."""

CHANNELS = 8
"""gRPC connections; HTTP takes as many as there are requests under way."""

DRAIN_SECONDS = 3.0


async def opened(
    transport: str, host: str, port: int, requests: str, rate: float, seconds: float, seed: int, limit: float
) -> dict[str, Any]:
    """An open loop: Poisson arrivals at ``rate``, each sent at its time whatever became of those before it.

    Latency counts from the scheduled time. The trial ends early once so many have missed the limit that its p99 can't
    be within it any more.

    Returns:
        ``planned``, ``sent``, ``misses`` (over the limit, failed, unanswered or not sent), ``errors``, ``held``
        (whether p99 is within the limit), ``p50`` and ``p99`` of those that were answered, ``late_p99`` of the sends,
        all in seconds.
    """
    rng = np.random.default_rng(seed)
    drawn = np.cumsum(rng.exponential(1 / rate, size=int(rate * seconds * 2) + 50))
    offsets: list[float] = drawn[drawn < seconds].tolist()
    asked = read_asks(requests)
    allowed = allowed_misses(len(offsets))
    books = _Open(limit)
    pool = _HttpPool(host, port) if transport == "http" else _GrpcPool(host, port)
    async with pool:
        await pool.warm(asked[0])
        start = time.perf_counter() + 0.02
        for index, offset in enumerate(offsets):
            due = start + offset
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            books.launch(pool.send, asked[index % len(asked)], due)
            if books.misses(time.perf_counter()) > allowed:
                break
        await books.drain(DRAIN_SECONDS)
        if books.misses(time.perf_counter()) > allowed:
            # Work that the server still does for nobody must not fall into the next one's time.
            with contextlib.suppress(Exception):
                await asyncio.wait_for(pool.send(asked[0]), REQUEST_SECONDS)
    misses = books.misses(time.perf_counter())
    latencies = books.latencies
    return {
        "planned": len(offsets),
        "sent": books.sent,
        "misses": misses,
        "errors": books.errors,
        "error": books.error,
        "held": misses <= allowed and len(latencies) > 0,
        "p50": quantile(latencies, 0.5) if latencies else None,
        "p99": quantile(latencies, 0.99) if latencies else None,
        "late_p99": quantile(books.lateness, 0.99) if books.lateness else None,
    }


class _Open:
    """The books of an open loop."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.latencies: list[float] = []
        self.lateness: list[float] = []
        self.sent = 0
        self.errors = 0
        self.error: str | None = None
        self._missed = 0
        self._due: dict[asyncio.Future[None], float] = {}  # in the order of their times

    def launch(self, send: Send, ask: Ask, due: float) -> None:
        """Send without waiting, or count a miss where too much is under way."""
        if len(self._due) >= MOST_UNDER_WAY:
            self._missed += 1
            return
        self.sent += 1
        self.lateness.append(time.perf_counter() - due)
        task = asyncio.ensure_future(self._one(send, ask, due))
        self._due[task] = due
        task.add_done_callback(lambda done: self._due.pop(done, None))

    async def _one(self, send: Send, ask: Ask, due: float) -> None:
        try:
            await send(ask)
        except asyncio.CancelledError:
            self._missed += 1
            raise
        except Exception as error:  # noqa: BLE001  (one error in the books)
            self.errors += 1
            self._missed += 1
            self.error = f"{type(error).__name__}: {error}"
            return
        latency = time.perf_counter() - due
        self.latencies.append(latency)
        self._missed += latency > self.limit

    def misses(self, now: float) -> int:
        """Those that missed, and those under way for longer than the limit."""
        overdue = 0
        for task, due in self._due.items():
            if now - due <= self.limit:
                break
            overdue += not task.done()  # one that is done is in the books, and leaves here with the loop's next turn
        return self._missed + overdue

    async def drain(self, seconds: float) -> None:
        """Wait for what is under way, then cancel it."""
        tasks = list(self._due)
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for task in (left := [task for task in tasks if not task.done()]):
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


class _HttpPool:
    """As many connections as requests are under way; a connection that failed is not used again."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._all: list[AsyncHttp] = []
        self._free: list[AsyncHttp] = []

    async def __aenter__(self) -> _HttpPool:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._all:
            connection.close()

    async def warm(self, ask: Ask) -> None:
        """Open the first ones."""
        self._free = [await self._connect() for _ in range(32)]
        for _ in range(2):
            await asyncio.wait_for(self.send(ask), 60)

    async def _connect(self) -> AsyncHttp:
        connection = await AsyncHttp.connect(*self._address)
        self._all.append(connection)
        return connection

    async def send(self, ask: Ask) -> bytes:
        """Ask on a free connection, or on a new one."""
        connection = self._free.pop() if self._free else await self._connect()
        try:
            answer = await connection.ask(ask.message)
        except BaseException:
            connection.close()
            raise
        self._free.append(connection)
        if answer.status != 200:
            raise Refused(f"status {answer.status}")
        return answer.body


class _GrpcPool:
    """A few channels in turn."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._stack = contextlib.AsyncExitStack()
        self._links: list[Send] = []
        self._turn = 0

    async def __aenter__(self) -> _GrpcPool:
        for _ in range(CHANNELS):
            self._links.append(await self._stack.enter_async_context(grpc_link(*self._address)))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def warm(self, ask: Ask) -> None:
        """Open them all."""
        await asyncio.wait_for(asyncio.gather(*(link(ask) for link in self._links)), 60)

    async def send(self, ask: Ask) -> bytes:
        """Ask on the next one."""
        self._turn = (self._turn + 1) % len(self._links)
        return await self._links[self._turn](ask)
