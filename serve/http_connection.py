"""One HTTP/1.1 connection on ``asyncio`` and ``httptools``: parsing, limits, order, and who is to be waited for.

Requests are answered one after the other, in order, however many a client has sent ahead. A client that leaves cancels
the handler that works for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from typing import Any

import httptools

from .failures import explain
from .http_limits import ServerState
from .http_messages import Request, Response, error_response, response_bytes


class Connection(asyncio.Protocol):
    """One client. Its parser's callbacks gather a request; whole ones wait in ``_queue`` for :meth:`_answer`."""

    def __init__(self, server: ServerState) -> None:
        self._server, self._limits = server, server.limits
        self._queue: deque[Request | Response] = deque()
        self._ahead = 0  # bytes of the bodies in it
        self._task: asyncio.Task[None] | None = None
        self._transport: Any = None
        self._parser = httptools.HttpRequestParser(self)
        self._writable = asyncio.Event()
        self._writable.set()
        self._in_message = self._in_head = False  # a request has begun; its headers have not ended
        self._silent = 0  # bytes since the parser last had something whole to tell
        self._owes_continue = False
        self._deaf = False  # nothing more is parsed; what comes is thrown away
        self.expires = time.monotonic() + self._limits.idle

    # -- asyncio's callbacks ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self._transport = transport
        self._server.connections.add(self)
        crowded = len(self._server.connections) > self._limits.connections
        if crowded and not self._server.make_room(time.monotonic()):
            self._server.refused(503)
            refusal = error_response(503, f"more than {self._limits.connections} connections")
            self._transport.write(response_bytes(refusal, head_only=False, close=True))
            self._deaf = True
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left, or was cut: what still runs for it is cancelled."""
        self._server.connections.discard(self)
        if self._task is not None:
            self._task.cancel()
        self._queue.clear()

    def data_received(self, data: bytes) -> None:
        """Bytes of one request, of a part of one, or of several."""
        while data and not self._deaf:
            data = self._parse(data)
        if self._silent > self._limits.head:  # in one header, or in what stands around a chunk
            self._refuse_head()
        if len(self._queue) > self._limits.pipelined or self._ahead > self._limits.body:
            self._transport.pause_reading()

    def _parse(self, data: bytes) -> bytes:
        """Feed the parser; what it stopped before, if it did, comes back."""
        self._silent += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._stay(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(400, "the request is no HTTP/1.1")
        return b""

    def pause_writing(self) -> None:
        """The client leaves answers unread."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It reads again."""
        self._writable.set()

    # -- httptools' callbacks -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._target = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()  # not a list of pieces: a chunk of a byte or two would cost forty
        self._head_size = self._body_size = self._silent = 0
        self._in_message = self._in_head = True
        self._time_out()

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._target += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        if self._in_head:  # not in a trailer, which must not change what was decided by the head
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        self._count_head(len(name) + len(value) + len(b": \r\n"))

    def on_headers_complete(self) -> None:
        """The body follows, or the end."""
        self._in_head = False
        length = self._headers.get("content-length", "0")
        if int(length) > self._limits.body:  # httptools lets digits pass only
            self._refuse_body()
        elif self._headers.get("expect", "").lower() == "100-continue":
            self._owes_continue = True
            self._send_continue()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._silent = 0
        self._body_size += len(body)
        if self._deaf:
            return
        if self._body_size > self._limits.body:
            self._refuse_body()
        else:
            self._body += body

    def on_message_complete(self) -> None:
        """A request's last byte."""
        self._in_message = self._owes_continue = False
        if self._deaf or self._parser.should_upgrade():
            return
        method, target = self._parser.get_method().decode("ascii"), self._target.decode("latin-1")
        keep_alive = self._parser.should_keep_alive()
        request = Request(method, target, self._headers, bytes(self._body), keep_alive)
        if not self._answered_at_once(request):
            self._enqueue(request)

    def _answered_at_once(self, request: Request) -> bool:
        """Answer what needs neither a task nor a wait, where nothing goes before it; whether that was so."""
        if self._task is not None or not request.keep_alive or self._server.draining or not self._writable.is_set():
            return False
        try:
            response = self._server.at_once(request)
        except Exception as error:  # noqa: BLE001 - as in _handled
            response = _failed(error)
        if response is None:
            return False
        self._transport.write(response_bytes(response, head_only=request.method == "HEAD", close=False))
        self._time_out()
        return True

    # -- answering ----------------------------------------------------------------------------------------------------

    def _enqueue(self, item: Request | Response) -> None:
        self._queue.append(item)
        self._ahead += len(item.body) if isinstance(item, Request) else 0
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._answer())
        self._time_out()

    async def _answer(self) -> None:
        """Answer what is queued, in order, until nothing is or the connection ends."""
        while self._queue and not self._transport.is_closing():
            item = self._queue.popleft()
            self._ahead -= len(item.body) if isinstance(item, Request) else 0
            if len(self._queue) <= self._limits.pipelined // 2 and self._ahead <= self._limits.body // 2:
                self._transport.resume_reading()
            if isinstance(item, Request):
                response = await self._handled(item)
                last = not item.keep_alive or (self._server.draining and not self._queue)
                self._transport.write(response_bytes(response, head_only=item.method == "HEAD", close=last))
            else:
                last = True
                self._transport.write(response_bytes(item, head_only=False, close=True))
            if not self._writable.is_set():
                self.expires = time.monotonic() + self._limits.writing
                await self._writable.wait()
                self.expires = math.inf
            if last:
                self._end(linger=self._in_message or isinstance(item, Response))
                return
        self._task = None
        self._time_out()
        self._send_continue()

    async def _handled(self, request: Request) -> Response:
        try:
            return await self._server.handler(request)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets exactly one answer
            return _failed(error)

    def _send_continue(self) -> None:
        """Ask for the body that a client holds back, once it is that request's turn."""
        if self._owes_continue and self._task is None and not self._deaf:
            self._owes_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _refuse(self, status: int, detail: str) -> None:
        """Answer with an error after what is queued, and end the connection."""
        if not self._deaf:
            self._deaf = True
            self._server.refused(status)
            self._enqueue(error_response(status, detail))

    def _stay(self, rest: bytes) -> bytes:
        """What to parse instead, so that a request for another protocol is served as if it were none, body included.

        The parser takes what follows such a head for the other protocol's; a fresh one gets the head again without it.
        """
        method = self._parser.get_method()
        if method == b"CONNECT":
            self._refuse(405, "CONNECT is not served")
            return b""
        head = [method + b" " + self._target + b" HTTP/1.1"]
        for name, value in self._headers.items():
            if name not in ("upgrade", "connection"):
                head.append(f"{name}: {value}".encode("latin-1"))
        self._parser = httptools.HttpRequestParser(self)
        return b"\r\n".join([*head, b"\r\n"]) + rest

    def _refuse_head(self) -> None:
        self._refuse(431, f"line and headers are larger than the limit of {self._limits.head} bytes")

    def _refuse_body(self) -> None:
        self._body.clear()
        self._refuse(413, f"the body is larger than the limit of {self._limits.body} bytes")

    def _count_head(self, size: int) -> None:
        self._silent = 0
        self._head_size += size
        if self._head_size > self._limits.head:
            self._refuse_head()

    # -- ending -------------------------------------------------------------------------------------------------------

    def _time_out(self) -> None:
        """Set the time this connection has for what it is waiting for; the handler's time is its own."""
        if self._task is not None:
            self.expires = math.inf
        else:
            self.expires = time.monotonic() + (self._limits.reading if self._in_message else self._limits.idle)

    def _end(self, *, linger: bool) -> None:
        self._task, self._deaf = None, True
        self._queue.clear()
        if not linger:
            self._transport.close()  # once the client has taken what is on its way
            self.expires = time.monotonic() + self._limits.writing
            return
        with contextlib.suppress(OSError, NotImplementedError):
            self._transport.write_eof()
        self._transport.resume_reading()
        self.expires = time.monotonic() + self._limits.lingering

    def expire(self) -> None:
        """Its time is over."""
        if self._task is None and self._in_message and not self._deaf:
            self._refuse(408, "the request took too long to come")
        else:
            self.abort()

    def idle_since(self) -> float:
        """When it became idle; infinity while a request runs or is on its way."""
        idle = self._task is None and not self._in_message and not self._deaf
        return self.expires - self._limits.idle if idle else math.inf

    def close_if_idle(self) -> None:
        """Close unless a request runs or is on its way."""
        if self._task is None and not self._in_message:
            self._transport.close()

    def make_way(self) -> None:
        """Close, at once where the client hasn't taken the last answer: closing would wait until it does."""
        if self._transport.get_write_buffer_size():
            self.abort()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()


def _failed(error: Exception) -> Response:
    failure = explain(error)
    return error_response(failure.status.http, failure.detail, failure.headers())
