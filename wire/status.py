"""Error kind -> gRPC status code and HTTP status, and what a caller is told."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from ..bundle import errors


class GrpcCode(enum.IntEnum):
    """The gRPC status codes in use, by their numbers on the wire."""

    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


@dataclass(frozen=True)
class Status:
    """The same failure on both transports."""

    grpc: GrpcCode
    http: int


ERROR_KIND, RETRY_AFTER, RETRY_AFTER_MS = "error-kind", "retry-after", "retry-after-ms"
"""Names of the HTTP headers, and of the trailing metadata, that come with an error."""

_INTERNAL = Status(GrpcCode.INTERNAL, 500)

# Overload is not UNAVAILABLE: clients that retry that one at once would make it worse.
STATUS: dict[type[errors.NlpdeployError], Status] = {
    errors.InvalidInput: Status(GrpcCode.INVALID_ARGUMENT, 400),
    errors.NotFound: Status(GrpcCode.NOT_FOUND, 404),
    errors.Unsupported: Status(GrpcCode.UNIMPLEMENTED, 501),
    errors.CorruptBundle: _INTERNAL,
    errors.StoreFailed: _INTERNAL,
    errors.EngineUnavailable: _INTERNAL,
    errors.EngineFailed: _INTERNAL,
    errors.ParityFailed: _INTERNAL,
    errors.TooLarge: Status(GrpcCode.RESOURCE_EXHAUSTED, 413),
    errors.Overloaded: Status(GrpcCode.RESOURCE_EXHAUSTED, 429),
    errors.DeadlineExceeded: Status(GrpcCode.DEADLINE_EXCEEDED, 504),
    errors.Cancelled: Status(GrpcCode.CANCELLED, 499),
    errors.Unavailable: Status(GrpcCode.UNAVAILABLE, 503),
}

_MAX_DETAIL = 400
"""Characters. A status text travels in a header, percent-encoded, and headers past 8 KiB break the call."""


@dataclass(frozen=True)
class Failure:
    """What a caller is told of an error.

    Attributes:
        status: on both transports.
        kind: name of the error's kind, so that a full queue can be told from a large message.
        detail: one line.
        retry_after: seconds after which trying again may help; None where it won't.
    """

    status: Status
    kind: str
    detail: str
    retry_after: float | None = None

    def headers(self) -> tuple[tuple[str, str], ...]:
        """``error-kind``, ``retry-after`` and ``retry-after-ms``, for HTTP headers or trailing metadata.

        HTTP's own header is in whole seconds, which is long for a queue that empties in milliseconds.
        """
        kind = ((ERROR_KIND, self.kind),)
        if self.retry_after is None:
            return kind
        seconds, milliseconds = math.ceil(self.retry_after), math.ceil(self.retry_after * 1000)
        return (*kind, (RETRY_AFTER, str(max(1, seconds))), (RETRY_AFTER_MS, str(max(1, milliseconds))))


def failure_of(error: BaseException) -> Failure:
    """What to answer for an error. One that is none of our kinds is a bug, and its text stays inside."""
    for kind in type(error).__mro__:
        if kind in STATUS and isinstance(error, errors.NlpdeployError):
            retry_after = error.retry_after if isinstance(error, errors.Overloaded) else None
            return Failure(STATUS[kind], kind.__name__, _cut(error.line()), retry_after)
    return Failure(_INTERNAL, "InternalError", "internal error; the server's log has more")


def _cut(line: str) -> str:
    whole = line.encode("utf-8", "replace").decode()
    return whole if len(whole) <= _MAX_DETAIL else whole[: _MAX_DETAIL - 1] + "…"
