"""Connections to one server elsewhere, and what it means for a request that one of them failed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable

from ..wire.address import Address
from ..wire.http1 import AnswerParser, MalformedAnswer, request_message
from ..wire.http_connection import HttpConnection

CONNECT_SECONDS = 2.0
"""Longest wait for a connection; on a network where servers stand side by side one takes a millisecond."""


class _NoAnswer(Exception):
    """No answer to a request.

    Args:
        reason: one line.
        late: whether the time was over, rather than a connection or an answer broken.
    """

    def __init__(self, reason: str, *, late: bool = False) -> None:
        self.late = late
        super().__init__(reason)


class NotSent(_NoAnswer):
    """No connection could be made: nothing of the request has left, so that another server may have it."""


class Broken(_NoAnswer):
    """The request was sent, and no whole answer came: it may have been run."""


class Connections:
    """Connections that stay open for the next request, the latest used first; as many as there are requests at once.

    Args:
        address: of the server.
        largest: bytes of an answer above which it is refused.
    """

    def __init__(self, address: Address, largest: int) -> None:
        self._address, self._largest = address, largest
        self._idle: list[HttpConnection] = []
        self._busy: set[HttpConnection] = set()

    async def ask(
        self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes, timeout: float
    ) -> AnswerParser:
        """One request and its whole answer, whatever its status.

        Args:
            method: HTTP's.
            target: path.
            headers: besides ``host`` and the length.
            body: may be empty.
            timeout: seconds until the connection is cut.

        Raises:
            NotSent: nothing has been sent.
            Broken: there is no whole answer.
        """
        connection = await self._take(min(timeout, CONNECT_SECONDS))
        answer = AnswerParser(self._largest)
        message = request_message(method, target, [("host", self._address.authority), *headers], body)
        self._busy.add(connection)
        try:
            async with asyncio.timeout(timeout):
                await connection.ask(message, answer)
        except TimeoutError:
            connection.cut()
            raise Broken(f"no answer within {timeout:.1f} s", late=True) from None
        except (OSError, MalformedAnswer) as error:
            connection.cut()
            said = f"an answer that is no HTTP: {error}" if isinstance(error, MalformedAnswer) else _reason(error)
            raise Broken(said) from None
        except BaseException:
            connection.cut()
            raise
        finally:
            self._busy.discard(connection)
        if answer.reusable and connection.usable:
            self._idle.append(connection)
        else:
            connection.cut()
        return answer

    def cut(self) -> None:
        """Close all; requests under way end as broken."""
        for connection in (*self._idle, *self._busy):
            connection.cut()
        self._idle.clear()

    async def _take(self, timeout: float) -> HttpConnection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.cut()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                _, made = await loop.create_connection(HttpConnection, self._address.host, self._address.port)
        except TimeoutError:
            raise NotSent(f"no connection within {timeout:.1f} s", late=True) from None
        except OSError as error:
            raise NotSent(_reason(error)) from None
        return made


def _reason(error: OSError) -> str:
    """In the system's words; asyncio's have addresses in them, or several errors at once."""
    if error.errno and error.errno > 0:
        return os.strerror(error.errno).lower()
    return error.strerror or ("connection failed" if "Multiple" in str(error) else str(error))
