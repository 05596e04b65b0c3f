"""One HTTP/2 connection of a gRPC client (RFC 9113, a client's part), shared by any number of calls at once.

Locks and one reading thread; under gevent's patches the same code yields and the thread is a greenlet. An answer's time
is that of the bytes that ended it, however long its caller takes to wake.
"""

from __future__ import annotations

import contextlib
import threading
import time

from ..wire import h2_frames as h2
from ..wire.address import Address
from ..wire.h2_frames import ConnectionFault, ErrorCode, frame
from ..wire.h2_headers import Fields, HeaderBlock, HeaderReader
from .grpc_headers import CANCELLED, INTERNAL, UNAVAILABLE, RequestHeaders
from .h2_call import Call, Gone
from .h2_socket import QuietSocket

_WINDOW = 2**30  # bytes that the server may send ahead on the connection; a stream is bounded by that alone
_HEADER_BYTES = 1 << 20
_PIECE = 1 << 18
_ENABLE_PUSH, _HEADER_TABLE_SIZE = 0x2, 0x1
_AGENT = "grpc-nlpdeploy-loadtest"


class Connection:
    """One connection.

    Args:
        address: of the server.
        deadline: seconds of ``time.monotonic`` until which it must stand.

    Raises:
        OSError: it does not.
    """

    def __init__(self, address: Address, deadline: float) -> None:
        self._socket = QuietSocket(address, deadline)
        self._headers = RequestHeaders(address.authority, _AGENT)
        self._reader = HeaderReader(_HEADER_BYTES)
        # Streams begin in the order of their numbers, one after the other; told when a window opens.
        self._room = threading.Condition(threading.Lock())
        self._calls: dict[int, Call] = {}
        self._next = 1
        self._window, self._initial = h2.DEFAULT_WINDOW, h2.DEFAULT_WINDOW
        self._most, self._blocked = 2**31, 0
        self._received = 0
        self._block: HeaderBlock | None = None
        self._gone: str | None = None
        settings = {_ENABLE_PUSH: 0, h2.INITIAL_WINDOW_SIZE: h2.LARGEST_WINDOW, h2.MAX_HEADER_LIST_SIZE: _HEADER_BYTES}
        more = h2.number_frame(h2.WINDOW_UPDATE, 0, _WINDOW - h2.DEFAULT_WINDOW)
        self._socket.put(h2.PREFACE + h2.settings_frame(settings) + more)
        self._settled = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        self._settled.wait(max(0.0, deadline - time.monotonic()))  # no call goes out before its terms are known
        if not self._settled.is_set():
            self.close()
            raise TimeoutError("no settings in time: no HTTP/2, or no server that answers")
        if self._gone is not None:
            raise ConnectionError(self._gone)

    @property
    def alive(self) -> bool:
        """Whether calls may be under way on it, or begin."""
        return self._gone is None or bool(self._calls)

    @property
    def usable(self) -> bool:
        """Whether it takes another call now."""
        return self._gone is None and len(self._calls) < self._most

    def ask(self, path: bytes, message: bytes, deadline: float) -> Call:
        """Send a message and wait for the end of the answer, at most until ``deadline``.

        Raises:
            TimeoutError: no end by then; the server is told that nobody waits any more.
            Gone: the server did not look at it.
            OSError: it can't be sent.
        """
        call = Call(self._initial)
        call.over.acquire()
        try:
            self._send(call, path, message, deadline)
            left = deadline - time.monotonic()
            if not (left > 0 and call.over.acquire(timeout=left)) and not call.ended:
                raise TimeoutError("no answer in time")
        except BaseException:
            self._abandon(call)
            raise
        if call.untouched:
            raise Gone(call.failure[1] if call.failure else "")
        return call

    def close(self) -> None:
        """End it, and with it every call."""
        self._end("closed")

    # -- out ----------------------------------------------------------------------------------------------------------

    def _send(self, call: Call, path: bytes, message: bytes, deadline: float) -> None:
        data = memoryview(b"\0" + len(message).to_bytes(4, "big") + message)
        with self._room:
            if self._gone is not None:
                raise Gone(self._gone)
            call.number, self._next = self._next, self._next + 2
            call.window = self._initial
            self._calls[call.number] = call
            block = self._headers.block(path, deadline - time.monotonic())
            head = frame(h2.HEADERS, h2.END_HEADERS, call.number, block)
            while not call.ended:
                size = min(len(data), call.window, self._window, h2.LARGEST_FRAME)
                if size > 0:
                    call.window -= size
                    self._window -= size
                    last = size == len(data)
                    self._socket.put(head + frame(h2.DATA, h2.END_STREAM if last else 0, call.number, data[:size]))
                    if last:
                        return
                    head, data = b"", data[size:]
                    continue
                if head:
                    self._socket.put(head)
                    head = b""
                left = deadline - time.monotonic()
                self._blocked += 1
                try:
                    if left <= 0 or not self._room.wait(left):
                        raise TimeoutError("the server took no more of the request in time")
                finally:
                    self._blocked -= 1
        self._write(h2.number_frame(h2.RST_STREAM, call.number, ErrorCode.NO_ERROR))  # it has answered all the same

    def _abandon(self, call: Call) -> None:
        if self._calls.pop(call.number, None) is not None:
            self._write(h2.number_frame(h2.RST_STREAM, call.number, ErrorCode.CANCEL))

    def _write(self, data: bytes) -> None:
        """A frame that belongs to no order; the reader learns of a connection that broke."""
        with contextlib.suppress(OSError):
            self._socket.put(data)

    # -- in -----------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        frames = h2.FrameReader(from_client=False)
        try:
            while piece := self._socket.read(_PIECE):
                now = time.monotonic()
                for kind, flags, stream, payload in frames.feed(piece):
                    if kind != h2.SETTINGS and not self._settled.is_set():
                        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "no settings at first: no HTTP/2")
                    self._take(kind, flags, stream, payload, now)
            reason = "the server closed the connection"
        except ConnectionFault as fault:
            self._write(h2.goaway_frame(0, fault.code, str(fault)))
            reason = str(fault)
        except OSError as error:
            reason = str(error) or type(error).__name__
        self._end(reason)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes, now: float) -> None:
        if self._block is not None and (kind != h2.CONTINUATION or stream != self._block.stream):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "another frame amid headers")
        if kind == h2.HEADERS:
            ended, block = bool(flags & h2.END_STREAM), h2.unpadded(flags, payload)
            if flags & h2.END_HEADERS:
                self._take_fields(stream, self._reader.read(block), ended=ended, now=now)
            else:
                self._block = HeaderBlock(stream, ended=ended, limit=_HEADER_BYTES)
                self._go_on(flags, block, now)
        elif kind == h2.DATA:
            self._take_data(flags, stream, payload, now)
        elif kind == h2.CONTINUATION:
            self._go_on(flags, payload, now)
        elif kind == h2.WINDOW_UPDATE:
            self._open_window(stream, h2.read_number(payload))
        elif kind == h2.SETTINGS:
            self._settle(flags, payload)
        elif kind == h2.PING and not flags & h2.ACK:
            self._write(frame(h2.PING, h2.ACK, 0, payload))
        elif kind == h2.RST_STREAM:
            code = h2.read_number(payload)
            self._break_off(
                stream,
                CANCELLED if code == ErrorCode.CANCEL else INTERNAL,
                f"the server reset the stream ({code})",
                now,
                untouched=code == ErrorCode.REFUSED_STREAM,
            )
        elif kind == h2.GOAWAY:
            self._go_away(payload, now)
        elif kind == h2.PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a push that was not wanted")

    def _go_on(self, flags: int, part: bytes, now: float) -> None:
        block = self._block
        if block is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "headers that go on before they began")
        whole = block.add(part, last=bool(flags & h2.END_HEADERS))
        if block.too_large:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"headers of more than {_HEADER_BYTES} bytes")
        if whole is not None:
            self._block = None
            self._take_fields(block.stream, self._reader.read(whole), ended=block.ended, now=now)

    def _take_fields(self, stream: int, fields: Fields | None, *, ended: bool, now: float) -> None:
        call = self._calls.get(stream)
        if call is None:  # given up meanwhile
            return
        if fields is None or (call.head is not None and not ended):
            self._break_off(stream, INTERNAL, "headers where none belong, or too many", now, tell=True)
        elif ended:
            call.trailers = fields
            self._finish(stream, call, now)
        elif not dict(fields).get(b":status", b"").startswith(b"1"):
            call.head = fields

    def _take_data(self, flags: int, stream: int, payload: bytes, now: float) -> None:
        self._received += len(payload)
        if self._received >= _WINDOW // 2:
            self._write(h2.number_frame(h2.WINDOW_UPDATE, 0, self._received))
            self._received = 0
        call = self._calls.get(stream)
        if call is None:
            return
        call.data.append(h2.unpadded(flags & h2.PADDED, payload))
        if flags & h2.END_STREAM:
            self._finish(stream, call, now)

    def _open_window(self, stream: int, more: int) -> None:
        with self._room:
            if not stream:
                self._window += more
            elif (call := self._calls.get(stream)) is not None:
                call.window += more
            self._room.notify_all()
        if not more or self._window > h2.LARGEST_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, f"a window of {self._window} bytes")

    def _settle(self, flags: int, payload: bytes) -> None:
        if flags & h2.ACK:
            return
        with self._room:  # no call may begin between what is agreed and what is in force
            for name, value in h2.read_settings(payload):
                if name == h2.INITIAL_WINDOW_SIZE:
                    for call in self._calls.values():
                        call.window += value - self._initial
                    self._initial = value
                elif name == h2.MAX_CONCURRENT_STREAMS:
                    self._most = value
                elif name == _HEADER_TABLE_SIZE:
                    self._headers.limit_table(value)
            self._write(frame(h2.SETTINGS, h2.ACK, 0))
            self._room.notify_all()
        self._settled.set()

    # -- ending -------------------------------------------------------------------------------------------------------

    def _go_away(self, payload: bytes, now: float) -> None:
        last = h2.read_number(payload[:4])
        self._gone = f"the server takes no more calls on this connection: {payload[8:].decode(errors='replace')}"
        for stream in [number for number in self._calls if number > last]:
            self._break_off(stream, UNAVAILABLE, self._gone, now, untouched=True)

    def _break_off(
        self, stream: int, code: int, text: str, now: float, *, untouched: bool = False, tell: bool = False
    ) -> None:
        call = self._calls.get(stream)
        if call is None:
            return
        if tell:
            self._write(h2.number_frame(h2.RST_STREAM, stream, ErrorCode.PROTOCOL_ERROR))
        if call.trailers is None:
            call.failure, call.untouched = (code, text), untouched and call.head is None
        self._finish(stream, call, now)

    def _finish(self, stream: int, call: Call, now: float) -> None:
        self._calls.pop(stream, None)
        call.ended = now
        call.over.release()
        if self._blocked:  # perhaps this one: the server has answered what it did not want to hear out
            with self._room:
                self._room.notify_all()

    def _end(self, reason: str) -> None:
        self._gone = self._gone or reason
        self._settled.set()
        now = time.monotonic()
        for stream in list(self._calls):
            self._break_off(stream, UNAVAILABLE, reason, now)
        with self._room:
            self._room.notify_all()
        self._socket.close()
