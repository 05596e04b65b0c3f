"""A gRPC call's headers and trailers over HTTP/2 (gRPC over HTTP2, "Requests" and "Responses"). Pure."""

from __future__ import annotations

import math
from urllib.parse import unquote_to_bytes

from ..wire.h2_headers import TABLE_SIZE, Fields, write_headers
from ..wire.status import GrpcCode

CANCELLED, UNKNOWN = int(GrpcCode.CANCELLED), 2
INTERNAL, UNAVAILABLE = int(GrpcCode.INTERNAL), int(GrpcCode.UNAVAILABLE)
DEADLINE_EXCEEDED = int(GrpcCode.DEADLINE_EXCEEDED)

NAMES = (
    "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED "
    "RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS "
    "UNAUTHENTICATED"
).split()
"""Of the status codes, by their numbers."""

_OF_HTTP = {400: INTERNAL, 401: 16, 403: 7, 404: 12, 429: UNAVAILABLE, 502: UNAVAILABLE, 503: UNAVAILABLE}
"""Status codes that stand for HTTP's where a call is answered by something that isn't gRPC; 504 is UNAVAILABLE too."""

_POST_HTTP = b"\x83\x86"  # :method POST and :scheme http in HPACK's static table
_AUTHORITY, _PATH, _CONTENT_TYPE, _USER_AGENT = 1, 4, 31, 58  # names there
_FIRST_OWN = 62  # the latest entry of the table that a connection fills
_NO_TABLE = b"\x20"  # a table of no bytes from now on
_MOST_TIMEOUT = 10**8  # a timeout has at most eight digits


class RequestHeaders:
    """Writes the header blocks of one connection, in the order in which they are sent.

    The first block puts what never changes into the server's table (HPACK, RFC 7541), those after it refer to that: a
    server under test reads what an ordinary client sends.

    Args:
        authority: of the server.
        agent: who asks.
    """

    def __init__(self, authority: str, agent: str) -> None:
        self._constant = (
            (b":authority", _AUTHORITY, authority.encode()),
            (b"content-type", _CONTENT_TYPE, b"application/grpc"),
            (b"te", 0, b"trailers"),
            (b"user-agent", _USER_AGENT, agent.encode()),
        )
        # The latest entry has the lowest number; fields whose names begin with a colon come first.
        self._referred = bytes(0x80 | _FIRST_OWN + at for at in reversed(range(len(self._constant))))
        self._taught = False
        self._prefix = b""
        self._plain = False

    def limit_table(self, size: int) -> None:
        """The server keeps a table of at most so many bytes: of less than usual, none is used."""
        if size < TABLE_SIZE and not self._plain:
            self._plain, self._prefix = True, _NO_TABLE

    def block(self, path: bytes, timeout: float) -> bytes:
        """The next call's.

        Args:
            path: of the method.
            timeout: seconds that the server is told, rounded up.
        """
        prefix, self._prefix = self._prefix, b""
        if self._plain:
            constant = write_headers([(name, value) for name, _, value in self._constant])
        elif self._taught:
            constant = self._referred
        else:
            self._taught = True
            constant = b"".join(
                b"%c" % (0x40 | name) + _text(value) if name else _new(key, value)
                for key, name, value in self._constant
            )
        where = b"%c" % _PATH + _text(path)
        return prefix + _POST_HTTP + where + constant + write_headers([(b"grpc-timeout", grpc_timeout(timeout))])


def grpc_timeout(seconds: float) -> bytes:
    """Microseconds, or the first larger unit whose number has eight digits at most."""
    for unit, size in ((b"u", 1e6), (b"m", 1e3), (b"S", 1.0)):
        number = math.ceil(max(0.0, seconds) * size)
        if number < _MOST_TIMEOUT:
            return b"%d%s" % (number, unit)
    return b"%dS" % (_MOST_TIMEOUT - 1)


def read_status(fields: Fields) -> tuple[int, str]:
    """``grpc-status`` and ``grpc-message`` of trailers; UNKNOWN where there is no status."""
    found = dict(fields)
    try:
        code = int(found[b"grpc-status"])
    except (KeyError, ValueError):
        return UNKNOWN, "an end without a grpc-status"
    return code, unquote_to_bytes(found.get(b"grpc-message", b"")).decode(errors="replace")


def refusal(fields: Fields) -> tuple[int, str] | None:
    """Why the headers of an answer are none of gRPC; None where they are."""
    status = dict(fields).get(b":status", b"")
    if status == b"200":
        return None
    code = int(status) if status.isdigit() else 0
    return UNAVAILABLE if code == 504 else _OF_HTTP.get(code, UNKNOWN), f"HTTP status {status.decode(errors='replace')}"


def name_of(code: int) -> str:
    """A status code's name."""
    return NAMES[code] if 0 <= code < len(NAMES) else f"status {code}"


def _new(name: bytes, value: bytes) -> bytes:
    return b"\x40" + _text(name) + _text(value)


def _text(value: bytes) -> bytes:
    """As :func:`write_headers` writes it: behind its length, and not compressed."""
    return write_headers([(b"", value)])[2:]
