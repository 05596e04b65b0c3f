"""One HTTP/2 connection on ``asyncio`` (RFC 9113, a server's part): frames, streams, windows, and when it ends.

What a stream means is its call's business: this hands over header fields and data, and carries answers away.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

import grpc

from ..wire import h2_frames as h2
from ..wire.h2_frames import ConnectionFault, ErrorCode, frame
from ..wire.h2_headers import HeaderBlock, HeaderReader
from .grpc_limits import ConnectionState
from .h2_stream import OutStream, StreamCall

STREAM_WINDOW, CONNECTION_WINDOW = 262_144, 4_194_304
"""Bytes of data that a client may send ahead, on a stream and on the whole connection."""
MOST_BLOCK = 4
"""Times the limit of the headers, at which a block is not read to its end, nor anything after it."""


class H2Connection(asyncio.Protocol):
    """One client.

    Args:
        state: what all connections of a server share.
        open_call: makes the call of a new stream.
    """

    def __init__(self, state: ConnectionState, open_call: Callable[[H2Connection, OutStream], StreamCall]) -> None:
        self._state, self._limits = state, state.limits
        self._open_call = open_call
        self._transport: Any = None
        self._frames, self._headers = h2.FrameReader(), HeaderReader(state.limits.header_bytes)
        self._settled = False  # the client's settings have come
        self._streams: dict[int, StreamCall] = {}
        self._blocked: dict[int, OutStream] = {}
        self._last = 0  # the client's newest stream
        self._block: HeaderBlock | None = None  # headers that go on
        self._received = 0  # bytes of data since the client's window was opened again
        self._initial = h2.DEFAULT_WINDOW  # the client's window for a new stream
        self._going = False  # no new streams are taken
        self._deaf = False  # nothing more is parsed; what comes is thrown away
        self.window = h2.DEFAULT_WINDOW
        self.since = self.heard = time.monotonic()
        self.idle = self.since  # since when it has no stream
        self._pinged = self._stuck = math.inf  # since when it owes an answer to a ping, and leaves answers unread

    # -- asyncio's callbacks ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self._transport = transport
        self._state.connections.add(self)
        settings = {
            h2.MAX_CONCURRENT_STREAMS: self._limits.streams,
            h2.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            h2.MAX_HEADER_LIST_SIZE: self._limits.header_bytes,
        }
        more = CONNECTION_WINDOW - h2.DEFAULT_WINDOW
        self._transport.write(h2.settings_frame(settings) + h2.number_frame(h2.WINDOW_UPDATE, 0, more))
        if len(self._state.connections) > self._limits.connections:
            self._fail(
                ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"more than {self._limits.connections} connections")
            )

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left, or was cut: what runs for it is cancelled."""
        self._state.connections.discard(self)
        self._blocked.clear()
        for call in tuple(self._streams.values()):
            call.leave()
        self._streams.clear()

    def data_received(self, data: bytes) -> None:
        """Bytes of any number of frames."""
        if self._deaf:
            return
        self.heard, self._pinged = time.monotonic(), math.inf
        try:
            for kind, flags, stream, payload in self._frames.feed(data):
                if self._deaf or self._transport.is_closing():
                    return
                self._take(kind, flags, stream, payload)
        except ConnectionFault as fault:
            self._fail(fault)

    def pause_writing(self) -> None:
        """The client leaves answers unread: it is not read either, so that no more answers are made."""
        self._stuck = time.monotonic()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        self._stuck = math.inf
        self._transport.resume_reading()

    # -- frames -------------------------------------------------------------------------------------------------------

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is not None and (kind != h2.CONTINUATION or stream != self._block.stream):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "another frame amid headers")
        if not self._settled and kind != h2.SETTINGS:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "no settings after the preface")
        if kind == h2.DATA:
            self._data(flags, stream, payload)
        elif kind == h2.HEADERS:
            self._begin_headers(flags, stream, h2.unpadded(flags, payload))
        elif kind == h2.CONTINUATION:
            self._continue_headers(flags, payload)
        elif kind == h2.WINDOW_UPDATE:
            self._open_window(stream, h2.read_number(payload))
        elif kind == h2.SETTINGS:
            self._settings(flags, stream, payload)
        elif kind == h2.PING:
            self._ping(flags, stream, payload)
        elif kind == h2.RST_STREAM:
            self._reset(stream, h2.read_number(payload))
        elif kind == h2.PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client that pushes")
        elif kind == h2.GOAWAY:
            self._going = True  # it opens no more streams; those that are open are answered
            self._close_if_done()
        # PRIORITY, and frames of other kinds, say nothing to us.

    def _data(self, flags: int, stream: int, payload: bytes) -> None:
        size = len(payload)
        self._received += size
        if self._received > CONNECTION_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")
        if self._received >= CONNECTION_WINDOW // 2:
            self.write(h2.number_frame(h2.WINDOW_UPDATE, 0, self._received))
            self._received = 0
        call = self._streams.get(stream)
        if call is None:
            self._check_known(stream)
            return
        call.credit -= size
        if call.ended or call.credit < 0:
            code = ErrorCode.STREAM_CLOSED if call.ended else ErrorCode.FLOW_CONTROL_ERROR
            self.reset(stream, code)
            return
        call.feed(h2.unpadded(h2.PADDED, payload) if flags & h2.PADDED else payload, ended=bool(flags & h2.END_STREAM))

    def _begin_headers(self, flags: int, stream: int, block: bytes) -> None:
        if not stream & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"headers on stream {stream}")
        if flags & h2.END_HEADERS:
            self._whole_headers(stream, block, ended=bool(flags & h2.END_STREAM))
            return
        limit = MOST_BLOCK * self._limits.header_bytes
        self._block = HeaderBlock(stream, ended=bool(flags & h2.END_STREAM), limit=limit)
        self._continue_headers(flags, block)

    def _continue_headers(self, flags: int, part: bytes) -> None:
        block = self._block
        if block is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "headers that go on before they began")
        whole = block.add(part, last=bool(flags & h2.END_HEADERS))
        if block.too_large:
            self._stop_reading(block.stream)
        elif whole is not None:
            self._block = None
            self._whole_headers(block.stream, whole, ended=block.ended)

    def _whole_headers(self, stream: int, block: bytes, *, ended: bool) -> None:
        fields = self._headers.read(block)  # of a refused stream too: those that follow build on it
        call = self._streams.get(stream)
        if call is not None:
            if call.ended or not ended:
                self.reset(stream, ErrorCode.PROTOCOL_ERROR)
            else:
                call.feed(b"", ended=True)  # trailers, which say nothing to us
            return
        if stream <= self._last:
            return
        self._last = stream
        if self._going or len(self._streams) >= self._limits.streams:
            self.write(h2.number_frame(h2.RST_STREAM, stream, ErrorCode.REFUSED_STREAM))
            return
        call = self._open_call(self, OutStream(self, stream, self._initial))
        call.credit = STREAM_WINDOW
        self._streams[stream] = call
        call.begin(fields)
        if ended and stream in self._streams:
            call.feed(b"", ended=True)

    def _stop_reading(self, stream: int) -> None:
        """Answer headers that are far too large. What follows can't be read without them: it is thrown away, until the
        client has heard of it and leaves."""
        self._deaf, self._going = True, True
        self._stuck = time.monotonic()
        if stream > self._last and stream not in self._streams:
            self._last = stream
            self._streams[stream] = call = self._open_call(self, OutStream(self, stream, self._initial))
            call.begin(None)
        self.write(h2.goaway_frame(self._last, ErrorCode.ENHANCE_YOUR_CALM))

    def _open_window(self, stream: int, more: int) -> None:
        if not stream:
            self.window += more
            if not more or self.window > h2.LARGEST_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, f"a window of {self.window} bytes")
            self._pump()
            return
        call = self._streams.get(stream)
        if call is None:
            self._check_known(stream)
            return
        call.out.window += more
        if not more or call.out.window > h2.LARGEST_WINDOW:
            self.reset(stream, ErrorCode.FLOW_CONTROL_ERROR if more else ErrorCode.PROTOCOL_ERROR)
        elif self._blocked.pop(stream, None):
            call.out.pump()

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream or (flags & h2.ACK and payload):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "settings of a stream, or in an acknowledgement")
        if flags & h2.ACK:
            return
        self._settled = True
        for name, value in h2.read_settings(payload):
            if name == h2.INITIAL_WINDOW_SIZE:
                for call in self._streams.values():
                    call.out.window += value - self._initial
                self._initial = value
        self.write(frame(h2.SETTINGS, h2.ACK, 0))
        self._pump()

    def _ping(self, flags: int, stream: int, payload: bytes) -> None:
        if stream or len(payload) != 8:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a ping of a stream, or of another size")
        if not flags & h2.ACK:
            self.write(frame(h2.PING, h2.ACK, 0, payload))

    def _reset(self, stream: int, code: int) -> None:
        call = self._streams.pop(stream, None)
        if call is None:
            self._check_known(stream)
            return
        self._blocked.pop(stream, None)
        call.leave()
        self._close_if_done()

    def _check_known(self, stream: int) -> None:
        if not stream or stream > self._last:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a frame of stream {stream}, which nobody has opened")

    # -- for streams and their calls ----------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Put frames on the wire."""
        self._transport.write(data)

    def block(self, stream: OutStream) -> None:
        """Pump this stream when the client takes more."""
        self._blocked[stream.number] = stream

    def sent_all(self, stream: OutStream) -> None:
        """An answer is on its way. Of a client that is still sending the rest is not wanted."""
        call = self._streams.pop(stream.number, None)
        if call is not None and not call.ended:
            self.write(h2.number_frame(h2.RST_STREAM, stream.number, ErrorCode.NO_ERROR))
        self._close_if_done()

    def reset(self, stream: int, code: ErrorCode) -> None:
        """End one stream without an answer."""
        self.write(h2.number_frame(h2.RST_STREAM, stream, code))
        self._reset(stream, code)

    def grant(self, call: StreamCall, more: int) -> None:
        """Let the client send more data on a stream."""
        call.credit += more
        self.write(h2.number_frame(h2.WINDOW_UPDATE, call.out.number, more))

    # -- ending -------------------------------------------------------------------------------------------------------

    def go_away(self) -> None:
        """Take no more streams; close when those that are open are answered."""
        if not self._going:
            self._going = True
            self.write(h2.goaway_frame(self._last, ErrorCode.NO_ERROR))
        self._close_if_done()

    def calls(self) -> list[StreamCall]:
        """Those that are open."""
        return list(self._streams.values())

    def look(self, now: float) -> None:
        """End what is past its time, and ask whether a client that has been silent for long is still there."""
        limits = self._limits
        slow = limits.slow_client
        if now - self._stuck > slow or now - self._pinged > slow or (not self._settled and now - self.since > slow):
            self._transport.abort()
            return
        if now - self.heard > slow and self._pinged == math.inf:
            self._pinged = now
            self.write(frame(h2.PING, 0, 0, b"\0" * 8))
        self._look_at_streams(now - slow)
        if (not self._streams and now - self.idle > limits.idle) or now - self.since > limits.age:
            self.go_away()

    def _look_at_streams(self, before: float) -> None:
        """End those whose request isn't whole, or whose answer isn't taken, for too long."""
        for stream in tuple(self._blocked.values()):
            if stream.blocked_at < before:
                self.reset(stream.number, ErrorCode.CANCEL)
        for call in self.calls():
            if call.waits_since() < before:
                call.cut(grpc.StatusCode.DEADLINE_EXCEEDED, "the request took too long to come")

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _pump(self) -> None:
        blocked, self._blocked = self._blocked, {}
        for stream in blocked.values():
            stream.pump()

    def _close_if_done(self) -> None:
        if not self._streams:
            self.idle = time.monotonic()
            if self._going and not self._deaf:
                self._transport.close()

    def _fail(self, fault: ConnectionFault) -> None:
        self._transport.write(h2.goaway_frame(self._last, fault.code, fault.detail))
        self._transport.close()
