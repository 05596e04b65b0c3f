"""Closed and open loops over HTTP/1.1, with as little work a request as Python allows.

Where client and server share the cores, a client's work for a refused request is time that the server's engines lack.
So there is no task and no future a request: an answer's last byte calls what comes next.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Done = Callable[["Connection", int], None]
TICK = 0.002
"""Seconds, at least, between looks at the clock: what is due meanwhile leaves together, as over a network card."""
_LENGTH = b"\r\ncontent-length: "


class Connection(asyncio.Protocol):
    """One connection, for one request at a time.

    Args:
        done: called with each request's end: the HTTP status, or 0 where the connection broke.

    Attributes:
        due: when the request at work was to leave, on ``time.perf_counter``.
    """

    def __init__(self, done: Done) -> None:
        self._done = done
        self._received = b""
        self._busy = False
        self._transport: asyncio.Transport | None = None
        self.due = 0.0

    @classmethod
    async def open(cls, host: str, port: int, done: Done) -> Connection:
        """Connect.

        Raises:
            OSError: there is no server.
        """
        _, connection = await asyncio.get_running_loop().create_connection(lambda: cls(done), host, port)
        return connection

    @property
    def closed(self) -> bool:
        """Whether another connection is needed."""
        return self._transport is None or self._transport.is_closing()

    def ask(self, message: bytes, due: float) -> None:
        """Send a whole request."""
        assert not self._busy
        assert self._transport is not None
        self.due, self._busy = due, True
        self._transport.write(message)

    def close(self) -> None:
        """Cut it, whatever is under way."""
        self._busy = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if self._received:
            data = self._received + data
        body = data.find(b"\r\n\r\n") + 4
        start = data.find(_LENGTH) + len(_LENGTH)
        if body < 4 or len(data) < body + int(data[start : data.index(b"\r", start)]):
            self._received = data
            return
        self._received, self._busy = b"", False
        self._done(self, int(data[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio."""
        self._transport = None
        if self._busy:
            self._busy = False
            self._done(self, 0)


async def closed_loop(host: str, port: int, asked: Sequence[bytes], clients: int, seconds: float) -> float:
    """Answers a second of clients that ask again as soon as they are answered.

    Raises:
        OSError: there is no server.
    """
    end = time.perf_counter() + seconds
    answers = sent = 0
    open_clients, all_ended = clients, asyncio.Event()

    def ask(connection: Connection) -> None:
        nonlocal sent
        connection.ask(asked[sent % len(asked)], 0.0)
        sent += 1

    def done(connection: Connection, status: int) -> None:
        nonlocal answers, open_clients
        now = time.perf_counter()
        answers += status == 200 and now <= end
        if now < end and not connection.closed:
            ask(connection)
            return
        connection.close()
        open_clients -= 1
        if not open_clients:
            all_ended.set()

    for connection in await asyncio.gather(*(Connection.open(host, port, done) for _ in range(clients))):
        ask(connection)
    await all_ended.wait()
    return answers / seconds


@dataclass
class Flood:
    """An open loop, and what became of it.

    Args:
        host: of the server.
        port: likewise.

    Attributes:
        seconds: from the first request to the last.
        ended: number by HTTP status; 0 for a connection that broke or couldn't be made.
        answered: when each of the answered was due and when it came, from the start.
    """

    host: str
    port: int
    seconds: float = 0.0
    ended: Counter[int] = field(default_factory=Counter)
    answered: list[tuple[float, float]] = field(default_factory=list)
    _start: float = 0.0
    _missing: int = 0
    _idle: list[Connection] = field(default_factory=list)
    _opening: set[asyncio.Task[None]] = field(default_factory=set)
    _all_ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def connect(self, connections: int) -> None:
        """Open so many connections ahead, as clients have them that ask all day.

        Raises:
            OSError: there is no server.
        """
        for _ in range(connections):
            self._idle.append(await Connection.open(self.host, self.port, self._done))

    async def run(self, asked: Sequence[bytes], offsets: Sequence[float], patience: float) -> None:
        """Send each request when it is due, or up to 2 ms later, on a connection of its own if all others are at work.

        Args:
            asked: whole requests, taken in turn.
            offsets: when they leave, seconds from the start, in order.
            patience: seconds in which all must have ended after the last has left.

        Raises:
            TimeoutError: they have not.
        """
        self._missing, self._start = len(offsets), time.perf_counter()
        for index, offset in enumerate(offsets):
            due = self._start + offset
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(max(wait, TICK))
            self._send(asked[index % len(asked)], due)
        self.seconds = time.perf_counter() - self._start
        await asyncio.wait_for(self._all_ended.wait(), patience)
        for connection in self._idle:
            connection.close()

    def _send(self, message: bytes, due: float) -> None:
        while self._idle and self._idle[-1].closed:
            self._idle.pop()
        if self._idle:
            self._idle.pop().ask(message, due)
            return
        task = asyncio.ensure_future(self._send_on_a_new_one(message, due))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _send_on_a_new_one(self, message: bytes, due: float) -> None:
        try:
            (await Connection.open(self.host, self.port, self._done)).ask(message, due)
        except OSError:
            self._end(0)

    def _done(self, connection: Connection, status: int) -> None:
        if status == 200:
            self.answered.append((connection.due - self._start, time.perf_counter() - self._start))
        if not connection.closed:
            self._idle.append(connection)
        self._end(status)

    def _end(self, status: int) -> None:
        self.ended[status] += 1
        self._missing -= 1
        if not self._missing:
            self._all_ended.set()
