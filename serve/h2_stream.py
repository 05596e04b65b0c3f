"""One HTTP/2 stream: what lives on it, and its way out: frames within the client's windows, in order, trailers last."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Protocol

import grpc

from ..wire.h2_frames import DATA, END_HEADERS, END_STREAM, HEADERS, LARGEST_FRAME, frame
from ..wire.h2_headers import Fields

MOST_WAITING = 65_536
"""Bytes that wait for the client's windows before whoever writes a stream is to wait too."""


class Sender(Protocol):
    """The connection, as a stream's way out sees it."""

    window: int
    """Bytes of data that the client takes on the whole connection."""

    def write(self, data: bytes) -> None:
        """Put frames on the wire."""
        ...

    def block(self, stream: OutStream) -> None:
        """Pump this stream when the client takes more."""
        ...

    def sent_all(self, stream: OutStream) -> None:
        """The stream's last frame is on its way."""
        ...


class OutStream:
    """What goes out on one stream.

    Args:
        sender: the connection.
        number: of the stream.
        window: bytes of data that the client takes on it.
    """

    def __init__(self, sender: Sender, number: int, window: int) -> None:
        self.number = number
        self.window = window
        self._sender = sender
        self._waiting: deque[memoryview] = deque()
        self._bytes_waiting = 0
        self._trailers: bytes | None = None
        self._room: asyncio.Future[None] | None = None
        self.blocked_at = 0.0  # monotonic seconds, when the client last took too little

    def send(self, data: bytes = b"", *, head: bytes = b"", trailers: bytes | None = None) -> None:
        """Send header block, data and trailers, as far as given; after trailers nothing more."""
        start = frame(HEADERS, END_HEADERS, self.number, head) if head else b""
        size = len(data)
        if not self._waiting and size <= min(self.window, self._sender.window, LARGEST_FRAME):
            self.window -= size
            self._sender.window -= size
            body = frame(DATA, 0, self.number, data) if size else b""
            end = b"" if trailers is None else self._end(trailers)
            self._sender.write(start + body + end)
            if trailers is not None:
                self._sender.sent_all(self)
            return
        if start:
            self._sender.write(start)
        if size:
            self._waiting.append(memoryview(data))
            self._bytes_waiting += size
        self._trailers = trailers
        self.pump()

    def pump(self) -> None:
        """Send what the windows let pass."""
        while self._waiting:
            data = self._waiting[0]
            size = min(len(data), self.window, self._sender.window, LARGEST_FRAME)
            if size <= 0:
                self.blocked_at = time.monotonic()
                self._sender.block(self)
                return
            self.window -= size
            self._sender.window -= size
            self._bytes_waiting -= size
            self._sender.write(frame(DATA, 0, self.number, data[:size]))
            if size < len(data):
                self._waiting[0] = data[size:]
            else:
                self._waiting.popleft()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if self._trailers is not None:
            self._sender.write(self._end(self._trailers))
            self._sender.sent_all(self)

    async def room(self) -> None:
        """Wait until little waits; one task at a time."""
        if self._bytes_waiting > MOST_WAITING:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def _end(self, trailers: bytes) -> bytes:
        return frame(HEADERS, END_HEADERS | END_STREAM, self.number, trailers)


class StreamCall(Protocol):
    """What lives on a stream. None of these raises."""

    out: OutStream
    ended: bool
    """Whether the client has sent all."""
    credit: int
    """Bytes of data that the client may still send."""

    def begin(self, fields: Fields | None) -> None:
        """The client's headers; None where they are more than the limit."""
        ...

    def feed(self, data: bytes, *, ended: bool) -> None:
        """Data, and whether it is the last."""
        ...

    def leave(self) -> None:
        """The client wants no answer any more, or there is no client any more."""
        ...

    def waits_since(self) -> float:
        """When it began, on ``time.monotonic``, while its one request isn't whole; infinity otherwise."""
        ...

    def cut(self, code: grpc.StatusCode, details: str) -> None:
        """End it with this status, whatever it is doing."""
        ...
