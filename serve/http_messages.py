"""HTTP requests and responses as plain values, and a response's bytes. Knows no sockets."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

JSON = "application/json"

_to_json = json.JSONEncoder(ensure_ascii=False).encode  # made once: in a flood most answers are errors
_REASONS = {status.value: status.phrase for status in HTTPStatus} | {499: "Client Closed Request"}


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request.

    Attributes:
        method: as sent, e.g. ``GET``.
        target: path and query as sent, still percent-encoded.
        headers: values by lower-case name; of a repeated one the last.
        body: decoded from chunks, not from a content encoding.
        keep_alive: whether the client lets the connection stay.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    keep_alive: bool = True


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response; ``content-length`` and ``connection`` are the server's to add."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: Sequence[tuple[str, str]] = ()


Handler = Callable[[Request], Awaitable[Response]]
AtOnce = Callable[[Request], Response | None]
"""The answer to a request that nothing has to be waited for; None where the handler is to be asked."""


def error_response(status: int, detail: str, headers: Sequence[tuple[str, str]] = ()) -> Response:
    """``{"error": detail}``."""
    return Response(status, _to_json({"error": detail}).encode(), JSON, headers)


def response_bytes(response: Response, *, head_only: bool, close: bool) -> bytes:
    """A response as it goes over the wire.

    Args:
        response: what to say.
        head_only: leave the body out, as HEAD wants it.
        close: announce that the connection ends with it.
    """
    lines = [
        f"HTTP/1.1 {response.status} {_REASONS.get(response.status, '')}",
        f"content-type: {response.content_type}",
        f"content-length: {len(response.body)}",
        *[f"{name}: {value}" for name, value in response.headers],
        "connection: close\r\n\r\n" if close else "connection: keep-alive\r\n\r\n",
    ]
    # Header values are ours; what latin-1 can't say, and line ends, must not break the frame.
    head = "\r\n".join(lines).encode("latin-1", "replace")
    return head if head_only else head + response.body
