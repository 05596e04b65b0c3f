"""An HTTP/1.1 server for one handler of whole requests: it listens, drains, and ends what is past its time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from .http_connection import Connection
from .http_limits import HttpLimits, ServerState
from .http_messages import AtOnce, Handler, Request
from .listening import cannot_listen


def _nobody_is_told(status: int) -> None:
    return None


def _nothing_at_once(request: Request) -> None:
    return None


class HttpServer:
    """Listens, and holds its connections.

    Args:
        handler: answers one request; what it raises is answered with its kind's status.
        host: address to listen on.
        port: 0 for a free one.
        limits: of each connection and of all.
        refused: told the status of each answer that the handler has no part in.
        at_once: answers, without a task of its own, what needs none.
    """

    def __init__(
        self,
        handler: Handler,
        host: str,
        port: int,
        limits: HttpLimits | None = None,
        refused: Callable[[int], None] | None = None,
        at_once: AtOnce = _nothing_at_once,
    ) -> None:
        self._state = ServerState(handler, at_once, limits or HttpLimits(), refused=refused or _nobody_is_told)
        self._host, self._port = host, port
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def open_connections(self) -> int:
        """How many clients there are."""
        return len(self._state.connections)

    async def start(self) -> int:
        """Listen; returns the port.

        Raises:
            InvalidInput: the address can't be listened on.
        """
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: Connection(self._state), self._host, self._port, backlog=1024
            )
        except OSError as error:
            raise cannot_listen("HTTP", self._host, self._port, "--http-port", error) from error
        self._sweeper = asyncio.ensure_future(self._sweep())
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def drain(self) -> None:
        """Close idle connections, and each other one with its next answer; new ones are still answered."""
        self._state.draining = True
        for connection in tuple(self._state.connections):
            connection.close_if_idle()

    async def stop(self, grace: float) -> None:
        """Take no more connections, give running requests ``grace`` seconds, then cut them."""
        if self._server is None or self._sweeper is None:
            return
        self._server.close()
        await self.drain()
        end = time.monotonic() + grace
        while self._state.connections and time.monotonic() < end:
            await asyncio.sleep(0.005)
        for connection in tuple(self._state.connections):
            connection.abort()
        self._sweeper.cancel()
        while self._state.connections:
            await asyncio.sleep(0)

    async def _sweep(self) -> None:
        """End what is past its time. One sweep for all: a timer for each step of each request would cost more."""
        limits = self._state.limits
        tick = min(1.0, min(limits.idle, limits.reading, limits.writing, limits.lingering) / 4)
        while True:
            await asyncio.sleep(tick)
            now = time.monotonic()
            for connection in tuple(self._state.connections):
                if connection.expires <= now:
                    connection.expire()
