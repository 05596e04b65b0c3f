"""HTTP/2 frames as bytes and back (RFC 9113, sections 4 and 6). Pure; knows no connection."""

from __future__ import annotations

import enum
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITIZED = 0x4, 0x8, 0x20

INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE, MAX_CONCURRENT_STREAMS = 0x4, 0x5, 0x6, 0x3
DEFAULT_WINDOW = 65_535
LARGEST_WINDOW = 2**31 - 1
LARGEST_FRAME = 16_384
"""Payload bytes of a frame, in both directions: what each side must take unless it says that it takes more."""

_HEAD = struct.Struct(">HBBBI")
_SETTING = struct.Struct(">HI")
_NUMBER = struct.Struct(">I")

Frame = tuple[int, int, int, bytes]
"""Type, flags, stream, payload."""


class ErrorCode(enum.IntEnum):
    """Why a stream is reset or a connection ends (RFC 9113, section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class ConnectionFault(Exception):
    """The peer broke the protocol; the connection ends.

    Args:
        code: why.
        detail: for people.
    """

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


class FrameReader:
    """The other side's bytes as they come -> whole frames.

    Args:
        from_client: the other side is a client, which first says that it speaks HTTP/2.
    """

    def __init__(self, *, from_client: bool = True) -> None:
        self._rest = b""
        self._greeted = not from_client

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that these bytes make whole.

        Raises:
            ConnectionFault: no HTTP/2, or a frame that is larger than was agreed.
        """
        data = self._rest + data if self._rest else data
        if not self._greeted:
            if data[: len(PREFACE)] != PREFACE[: len(data)]:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "no HTTP/2")
            self._greeted = len(data) >= len(PREFACE)
            self._rest = data
            data = data[len(PREFACE) :] if self._greeted else b""
            if not self._greeted:
                return []
        frames, place, end = [], 0, len(data)
        while end - place >= _HEAD.size:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, place)
            size = high << 8 | low
            if size > LARGEST_FRAME:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            begin = place + _HEAD.size
            if end - begin < size:
                break
            place = begin + size
            frames.append((kind, flags, stream & 0x7FFFFFFF, data[begin:place]))
        self._rest = data[place:]
        return frames


def frame(kind: int, flags: int, stream: int, payload: bytes | memoryview = b"") -> bytes:
    """One frame's bytes."""
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def unpadded(flags: int, payload: bytes) -> bytes:
    """What a DATA or HEADERS frame holds besides its padding and its place in a tree that nobody uses any more.

    Raises:
        ConnectionFault: it says that it holds more than it does.
    """
    begin, end = 0, len(payload)
    if flags & PADDED:
        begin, end = 1, end - (payload[0] if payload else 0)
    if flags & PRIORITIZED:
        begin += 5
    if begin > end:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame's padding is longer than the frame")
    return payload[begin:end]


def settings_frame(settings: dict[int, int]) -> bytes:
    """What this side asks of the other."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(name, value) for name, value in settings.items()))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Name and value of each setting, in order.

    Raises:
        ConnectionFault: half a setting, or a value out of its range (RFC 9113, section 6.5.2).
    """
    if len(payload) % _SETTING.size:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "half a setting")
    settings = list(_SETTING.iter_unpack(payload))
    for name, value in settings:
        if name == INITIAL_WINDOW_SIZE and value > LARGEST_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, f"an initial window of {value} bytes")
        if name == MAX_FRAME_SIZE and not LARGEST_FRAME <= value < 2**24:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"frames of {value} bytes")
    return settings


def number_frame(kind: int, stream: int, number: int) -> bytes:
    """RST_STREAM or WINDOW_UPDATE."""
    return frame(kind, 0, stream, _NUMBER.pack(number))


def read_number(payload: bytes) -> int:
    """The 31 bits of RST_STREAM or WINDOW_UPDATE.

    Raises:
        ConnectionFault: another length.
    """
    if len(payload) != _NUMBER.size:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"{len(payload)} bytes where a number stands")
    return int(_NUMBER.unpack(payload)[0]) & 0x7FFFFFFF


def goaway_frame(last: int, code: ErrorCode, detail: str = "") -> bytes:
    """The connection ends; streams after ``last`` were not looked at."""
    return frame(GOAWAY, 0, 0, _NUMBER.pack(last) + _NUMBER.pack(code) + detail.encode())
