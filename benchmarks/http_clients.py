"""HTTP/1.1 clients of a few lines: the less a client costs, the more a measurement says of the server.

Both keep their connection, and both refuse bytes that nobody asked for: a request has exactly one answer.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

_PIECE = 65536
_TIMEOUT = 60.0


@dataclass(frozen=True)
class HttpAnswer:
    """One answer.

    Attributes:
        status: e.g. 200.
        head: status line and headers, in lower case.
        body: as sent.
    """

    status: int
    head: str
    body: bytes

    def header(self, name: str) -> str:
        """The value of a header; empty where it is absent."""
        return next((line.partition(": ")[2] for line in self.head.split("\r\n") if line.startswith(f"{name}: ")), "")


def parse_answer(received: bytes | bytearray) -> tuple[HttpAnswer, int] | None:
    """The first answer in what was received and its size; None while it isn't whole."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = received[:end].decode("latin-1").lower()
    length = int(head.partition("\r\ncontent-length: ")[2].partition("\r\n")[0])
    size = end + 4 + length
    if len(received) < size:
        return None
    return HttpAnswer(int(head[9:12]), head, bytes(received[end + 4 : size])), size


class BlockingHttp:
    """One connection for one caller, on a plain socket."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=_TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> HttpAnswer:
        """Send and wait.

        Raises:
            ConnectionError: the connection ended, or more than one answer came.
        """
        self._socket.sendall(request)
        received = b""
        while True:
            piece = self._socket.recv(_PIECE)
            if not piece:
                raise ConnectionError("the server closed the connection before the answer was whole")
            received += piece
            parsed = parse_answer(received)
            if parsed is None:
                continue
            answer, size = parsed
            if size != len(received):
                raise ConnectionError("more than one answer to one request")
            return answer

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class AsyncHttp(asyncio.Protocol):
    """One connection for one task at a time, on the running event loop; made by :meth:`connect`."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._waiting: asyncio.Future[HttpAnswer] | None = None
        self._transport: asyncio.Transport | None = None
        self.surplus = 0
        """Bytes that came without a question."""

    @classmethod
    async def connect(cls, host: str, port: int) -> AsyncHttp:
        """Open a connection."""
        _, protocol = await asyncio.get_running_loop().create_connection(cls, host, port)
        return protocol

    @property
    def closed(self) -> bool:
        """Whether another connection is needed."""
        return self._transport is None or self._transport.is_closing()

    async def ask(self, request: bytes) -> HttpAnswer:
        """Send and wait. A caller that is cancelled must close the connection.

        Raises:
            ConnectionError: the connection ended first.
        """
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("the connection is closed")
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._waiting
        finally:
            self._waiting = None

    def close(self) -> None:
        """Cut the connection at once, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if self._waiting is None or self._waiting.done():
            self.surplus += len(data)
            return
        self._received += data
        parsed = parse_answer(self._received)
        if parsed is not None:
            answer, size = parsed
            self.surplus += len(self._received) - size
            self._received.clear()
            self._waiting.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio."""
        self._transport = None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionError("the server closed the connection before the answer was whole"))
