"""One HTTP/1.1 connection to a server, on asyncio; and what every such socket is set to."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

from .http1 import AnswerParser, MalformedAnswer

_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""Seconds without traffic before the first probe, between probes, and how many may be lost. Routers forget silent
connections; who then asks on one would wait out the deadline. A system that lacks an option keeps its own value."""


def prepare_socket(connection: socket.socket) -> None:
    """No waiting for more to send, and probes while it is idle."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class HttpConnection(asyncio.Protocol):
    """One connection, one request at a time. Its bytes are parsed as they come, so that the loop is woken once."""

    def __init__(self) -> None:
        self.usable = True
        self._transport: asyncio.Transport | None = None
        self._answer: AnswerParser | None = None
        self._done: asyncio.Future[None] | None = None

    async def ask(self, message: bytes, answer: AnswerParser) -> None:
        """Send; wait until the answer is whole.

        Raises:
            ConnectionError: the connection ended before.
            MalformedAnswer: bytes that are no answer.
        """
        if self._transport is None or not self.usable:
            raise ConnectionError("the connection closed before an answer")
        self._answer, self._done = answer, asyncio.get_running_loop().create_future()
        self._transport.write(message)
        try:
            await self._done
        finally:
            self._answer = self._done = None

    def cut(self) -> None:
        """Close now, whatever is still to be sent."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport = cast(asyncio.Transport, transport)
        prepare_socket(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        """A piece of an answer; without a question the connection is of no more use."""
        self._feed(data)

    def eof_received(self) -> None:
        """The server has closed its side."""
        self.usable = False
        self._feed(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.usable = False
        if exc is None:
            self._feed(b"")
        else:
            self._settle(exc)

    def _feed(self, data: bytes) -> None:
        if self._answer is None:
            self.usable = False
            return
        try:
            self._answer.feed(data)
        except (ConnectionError, MalformedAnswer) as error:
            self._settle(error)
        else:
            if self._answer.complete:
                self._settle(None)

    def _settle(self, error: Exception | None) -> None:
        if self._done is None or self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)
