"""HTTP on asyncio: a pool of connections for any number of tasks of one event loop."""

from __future__ import annotations

import asyncio
from typing import Any

from ..wire.address import Address
from ..wire.http1 import AnswerParser, MalformedAnswer
from ..wire.http_connection import HttpConnection
from .deadline import Deadline
from .failures import out_of_time
from .http1 import request_bytes
from .http_transport import broken_off, check_connections, not_connected, read_reply
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
        self._idle: list[HttpConnection] = []
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

    async def _take(self, deadline: Deadline) -> tuple[HttpConnection, bool]:
        """A connection, and whether it was used before."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection, True
            connection.cut()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(deadline.left()):
                _, made = await loop.create_connection(HttpConnection, self._address.host, self._address.port)
        except OSError as error:
            raise not_connected(self._server, error, deadline) from error
        return made, False

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().cut()
