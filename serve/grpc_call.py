"""One gRPC call on a stream: its messages, its deadline, its handler's task, and its status (gRPC over HTTP/2).

Handlers see of it what ``grpc.aio`` shows them of a call: :meth:`Call.read`, :meth:`Call.write`, :meth:`Call.abort`,
:meth:`Call.set_trailing_metadata`, :meth:`Call.time_remaining`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any, NoReturn

import grpc

from ..bundle.errors import TooLarge
from ..wire.h2_headers import Fields, write_headers
from .grpc_messages import MessageReader, with_prefix
from .grpc_status import Aborted, Metadata, invalid, ok_block, read_timeout, refused
from .h2_connection import STREAM_WINDOW, H2Connection
from .h2_stream import OutStream

log = logging.getLogger(__name__)

CONTENT_TYPE = b"application/grpc"
_OPENING = write_headers([(b":status", b"200"), (b"content-type", CONTENT_TYPE)])
_NO_GRPC = write_headers([(b":status", b"415")])


class Call:
    """A call from its headers to its status.

    Args:
        connection: where it came in.
        out: its way out.
        methods: handlers, as ``grpc`` makes them, by path.
        most: bytes of a message, either way.
    """

    def __init__(self, connection: H2Connection, out: OutStream, methods: Mapping[bytes, Any], most: int) -> None:
        self.out, self.ended, self.credit = out, False, 0
        self._connection, self._methods, self._most = connection, methods, most
        self._handler: Any = None
        self._deadline: float | None = None
        self._reading = MessageReader(most)
        self._messages: deque[bytes] = deque()
        self._begun = time.monotonic()
        self._owed = 0  # bytes that the client may send again, but has not been told of
        self._reader: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._opened = self._over = False
        self._cut: Aborted | None = None
        self._trailing: Metadata = ()

    # -- what comes in ------------------------------------------------------------------------------------------------

    def begin(self, fields: Fields | None) -> None:
        """The client's headers; None where they are more than the limit."""
        try:
            path, kind, timeout = self._read_headers(fields)
        except Aborted as status:
            self._finish(status)
            return
        if not kind.startswith(CONTENT_TYPE):
            self._over = True
            self.out.send(trailers=_NO_GRPC)
            return
        self._handler = self._methods.get(path)
        if self._handler is None:
            self._finish(Aborted(grpc.StatusCode.UNIMPLEMENTED, f"no method {path.decode('utf-8', 'replace')}"))
            return
        self._deadline = None if timeout is None else time.monotonic() + timeout
        if self._handler.request_streaming:
            self._start()

    def _read_headers(self, fields: Fields | None) -> tuple[bytes, bytes, float | None]:
        if fields is None:
            raise refused(TooLarge("metadata of the call", wanted="less"))
        path = kind = b""
        timeout = None
        for name, value in fields:
            if name == b":path":
                path = value
            elif name == b"content-type":
                kind = value
            elif name == b"grpc-timeout":
                timeout = read_timeout(value)
            elif name == b"grpc-encoding":
                self._reading.expect(value)
        return path, kind, timeout

    def feed(self, data: bytes, *, ended: bool) -> None:
        """Data, and whether it is the last."""
        self.ended = ended
        if self._over:
            return
        self._owed += len(data)
        try:
            self._messages += self._reading.feed(data)
            if ended and self._reading.amid:
                raise invalid("the request ends amid a message")
            if not self._handler.request_streaming and (ended or len(self._messages) > 1):
                self._check_one()
        except Aborted as status:
            self._end_early(status)
            return
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        self._grant()

    def _check_one(self) -> None:
        """A call with one request begins once that is there, and the client has said that no other follows."""
        if len(self._messages) != 1:
            found = len(self._messages) or "none"
            raise invalid(f"one message is a request; found {found}")
        if self.ended and self._task is None:
            self._start()

    def _grant(self) -> None:
        """Let the client send more, unless whole messages wait unread."""
        unread = self._handler.request_streaming and self._messages
        if self._owed >= STREAM_WINDOW // 2 and not unread and not self.ended:
            self._connection.grant(self, self._owed)
            self._owed = 0

    def leave(self) -> None:
        """The client wants no answer any more, or there is no client any more."""
        self._over = True
        if self._task is not None:
            self._task.cancel()

    def waits_since(self) -> float:
        """When it began, on ``time.monotonic``, while its one request isn't whole; infinity otherwise."""
        waits = self._task is None and not self._over
        return self._begun if waits else math.inf

    def cut(self, code: grpc.StatusCode, details: str) -> None:
        """End it with this status, whatever it is doing."""
        self._end_early(Aborted(code, details))

    def _end_early(self, status: Aborted) -> None:
        if self._task is None:
            self._finish(status)
        elif not self._over:
            self._cut = status
            self._task.cancel()

    # -- for handlers -------------------------------------------------------------------------------------------------

    def time_remaining(self) -> float | None:
        """Seconds to the client's deadline; None where it named none."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """What is told with the status; values of printable ASCII."""
        self._trailing = metadata

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """End the call with an error: raises what must not be caught."""
        raise Aborted(code, details, trailing_metadata)

    async def read(self) -> Any:
        """The next request's bytes; ``grpc.aio.EOF`` after the last."""
        while not self._messages:
            if self.ended:
                return grpc.aio.EOF
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        message = self._messages.popleft()
        self._grant()
        return message

    async def write(self, message: Any) -> None:
        """Send one answer; waits while the client takes none. One task at a time."""
        serialise = self._handler.response_serializer
        self._send(serialise(message) if serialise else message)
        await self.out.room()

    # -- its task -----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run())
        streaming = self._handler.request_streaming or self._handler.response_streaming
        if self._deadline is not None and streaming:  # one answer has its deadline where it is made
            late = Aborted(grpc.StatusCode.DEADLINE_EXCEEDED, "the call's time is over")
            self._timer = loop.call_at(self._deadline, self._end_early, late)

    async def _run(self) -> None:
        status: Aborted | None = None
        try:
            await self._handle()
        except Aborted as aborted:
            status = aborted
        except asyncio.CancelledError:
            if self._over:
                raise
            status = self._cut or Aborted(grpc.StatusCode.CANCELLED, "cancelled")
        except Exception as error:
            log.error("a gRPC call failed by %s", type(error).__name__, exc_info=error)
            status = Aborted(grpc.StatusCode.INTERNAL, type(error).__name__)
        finally:
            if self._timer is not None:
                self._timer.cancel()
        self._finish(status)

    async def _handle(self) -> None:
        handler = self._handler
        if handler.request_streaming:
            request: Any = self._requests()
        else:
            request = self._parsed(self._messages.popleft())
        method = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        if inspect.isasyncgenfunction(method):
            async for message in method(request, self):
                await self.write(message)
            return
        answer = await method(request, self)
        if not handler.response_streaming:
            self._send(handler.response_serializer(answer) if handler.response_serializer else answer)

    async def _requests(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield self._parsed(message)

    def _parsed(self, message: bytes) -> Any:
        if self._handler.request_deserializer is None:
            return message
        try:
            return self._handler.request_deserializer(message)
        except Exception:  # noqa: BLE001 (protobuf's kinds of error differ by version)
            raise invalid("the request is no message of its kind") from None

    # -- what goes out ------------------------------------------------------------------------------------------------

    def _send(self, message: bytes) -> None:
        head, self._opened = b"" if self._opened else _OPENING, True
        data = with_prefix(message, self._most)
        if self._handler.response_streaming:
            self.out.send(data, head=head)
            return
        self._over = True  # headers, message and status in one go
        self.out.send(data, head=head, trailers=ok_block(self._trailing))

    def _finish(self, status: Aborted | None) -> None:
        """Send the status, unless it went with the answer or nobody is there."""
        if self._over:
            return
        self._over = True
        self._messages.clear()
        block = ok_block(self._trailing) if status is None else status.block()
        self.out.send(trailers=block if self._opened else _OPENING + block)
