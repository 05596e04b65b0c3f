"""HTTP on asyncio: a pool of connections for any number of tasks of one event loop."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from ..wire.address import Address
from .deadline import Deadline
from .failures import out_of_time
from .http1 import AnswerParser, MalformedAnswer, request_bytes
from .http_transport import broken_off, check_connections, not_connected, prepare_socket, read_reply
from .questions import Question, Reply
from .retry import Failed


class HttpTransport:
    """Connections that stay open for the next request, the latest used first.

    Args:
        address: of the server.
        connections: most at once; a request above that waits for one.

    Raises:
        InvalidInput: less than one connection.
    """

    def __init__(self, address: Address, connections: int) -> None:
        self._address, self._server = address, str(address)
        self._idle: list[_Connection] = []
        self._places = asyncio.Semaphore(check_connections(connections))
        self._closed = False

    async def send(self, question: Question[Any], deadline: Deadline) -> Reply:
        """Send once and wait for the answer; a task that is cancelled here closes the connection.

        Raises:
            Failed: there is none, or it is an error.
        """
        try:
            async with asyncio.timeout(deadline.left()):
                await self._places.acquire()
        except TimeoutError:
            raise Failed(out_of_time(self._server, deadline.timeout)) from None
        try:
            connection, used = await self._take(deadline)
            answer = AnswerParser()
            try:
                async with asyncio.timeout(deadline.left()):
                    await connection.ask(request_bytes(question, self._address.authority, deadline.left()), answer)
            except (OSError, MalformedAnswer) as error:
                connection.cut()
                if used:
                    self._drop_idle()  # as old as this one, and as dead
                raise broken_off(self._server, error, answer, deadline, used=used) from error
            except BaseException:
                connection.cut()
                raise
            if answer.reusable and connection.usable and not self._closed:
                self._idle.append(connection)
            else:
                connection.cut()
        finally:
            self._places.release()
        return read_reply(self._server, answer)

    async def close(self) -> None:
        """Close the idle connections; those at work close with their answer."""
        self._closed = True
        self._drop_idle()
        await asyncio.sleep(0)  # in which the loop closes the sockets

    async def _take(self, deadline: Deadline) -> tuple[_Connection, bool]:
        """A connection, and whether it was used before."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection, True
            connection.cut()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(deadline.left()):
                _, made = await loop.create_connection(_Connection, self._address.host, self._address.port)
        except OSError as error:
            raise not_connected(self._server, error, deadline) from error
        return made, False

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().cut()


class _Connection(asyncio.Protocol):
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
