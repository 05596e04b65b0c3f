"""How a gRPC call ends, and when its client's time is over, as headers say it (gRPC over HTTP/2)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

import grpc

from ..bundle.errors import NlpdeployError
from ..wire.h2_headers import write_headers
from ..wire.status import failure_of

Metadata = Sequence[tuple[str, str]]
"""Names in lower case, values of printable ASCII."""

LONGEST_DETAILS = 2048
"""Characters of a status' message that go out."""
_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])", re.ASCII)
_OK = write_headers([(b"grpc-status", b"0")])


class Aborted(Exception):
    """A call ends with this status.

    Args:
        code: one of ``grpc.StatusCode``.
        details: for people.
        metadata: trailing.
    """

    def __init__(self, code: grpc.StatusCode, details: str, metadata: Metadata = ()) -> None:
        super().__init__(details)
        self.code, self.details, self.metadata = code, details, metadata

    def block(self) -> bytes:
        """The trailers' header block."""
        details = quote(self.details[:LONGEST_DETAILS], safe=_PRINTABLE, errors="replace").encode()
        status = [(b"grpc-status", str(self.code.value[0]).encode()), (b"grpc-message", details)]
        return write_headers(status) + metadata_block(self.metadata)


def refused(error: NlpdeployError) -> Aborted:
    """RESOURCE_EXHAUSTED of an error's kind, told as the data plane's own errors are."""
    failure = failure_of(error)
    return Aborted(grpc.StatusCode.RESOURCE_EXHAUSTED, failure.detail, failure.headers())


def invalid(details: str) -> Aborted:
    """INVALID_ARGUMENT."""
    return Aborted(grpc.StatusCode.INVALID_ARGUMENT, details)


def ok_block(metadata: Metadata) -> bytes:
    """The trailers of a call that ended well."""
    return _OK + metadata_block(metadata)


def metadata_block(metadata: Metadata) -> bytes:
    """Metadata as a header block."""
    return write_headers([(name.encode(), value.encode("ascii", "replace")) for name, value in metadata])


def read_timeout(value: bytes) -> float:
    """Seconds of a ``grpc-timeout``.

    Raises:
        Aborted: it is none.
    """
    match = _TIMEOUT.fullmatch(value.decode("latin-1"))
    if match is None:
        raise invalid("grpc-timeout that is none")
    return int(match[1]) * _UNITS[match[2]]
