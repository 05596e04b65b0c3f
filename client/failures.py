"""A status as it came over the wire -> the error kind that the server meant, and whether to try again. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

from ..bundle.errors import (
    Cancelled,
    CorruptBundle,
    DeadlineExceeded,
    EngineFailed,
    InvalidInput,
    NlpdeployError,
    NotFound,
    Overloaded,
    TooLarge,
    Unavailable,
    Unsupported,
)
from ..wire.status import ERROR_KIND, RETRY_AFTER, RETRY_AFTER_MS, STATUS
from .retry import Failed, Fate

Kind = type[NlpdeployError]

_BY_NAME: dict[str, Kind] = {kind.__name__: kind for kind in STATUS}
_PLAIN: tuple[Kind, ...] = (
    InvalidInput, NotFound, Unsupported, EngineFailed, TooLarge, Overloaded, DeadlineExceeded, Cancelled, Unavailable,
)  # fmt: skip
"""The kind that a status stands for where a server names none; of RESOURCE_EXHAUSTED the latter, being the likelier."""

_BY_HTTP: dict[int, Kind] = {STATUS[kind].http: kind for kind in _PLAIN} | {502: Unavailable}
_BY_GRPC: dict[int, Kind] = {int(STATUS[kind].grpc): kind for kind in _PLAIN}
_CALLER_S_FAULT = (6, 7, 9, 11, 16)
"""gRPC's ALREADY_EXISTS, PERMISSION_DENIED, FAILED_PRECONDITION, OUT_OF_RANGE, UNAUTHENTICATED."""

_RETRY_AFTER_AT_END = re.compile(r"(?:; )?retry after [\d.]+ s$")
_LARGER = re.compile(r"\bmessage larger than max\b")
_NO_CONNECTION = "failed to connect to all addresses"


def http_failure(server: str, status: int, headers: Mapping[str, str], body: bytes) -> Failed:
    """The failure in an HTTP answer.

    Args:
        server: for messages, e.g. ``http://127.0.0.1:8000``.
        status: above 299.
        headers: values by lower-case name.
        body: ``{"error": "…"}``, or whatever else came.
    """
    plain = _BY_HTTP.get(status, EngineFailed if status >= 500 else InvalidInput)
    detail = _said(body) or f"HTTP status {status} of {server}"
    refused = plain is not Unavailable or status == 503  # a 502 may come of a server that died over the request
    return _failure(plain, detail, headers, refused=refused)


def grpc_failure(server: str, code: int, detail: str, trailers: Mapping[str, str]) -> Failed:
    """The failure in a gRPC status.

    Args:
        server: for messages, e.g. ``grpc://127.0.0.1:8001``.
        code: the status code.
        detail: the status text.
        trailers: trailing metadata.
    """
    if ERROR_KIND not in trailers and code == STATUS[Unavailable].grpc:
        # No server of ours says so without a kind: it comes from the connection, or from a proxy before the server.
        fate = Fate.NOT_BEGUN if detail.startswith(_NO_CONNECTION) else Fate.LOST
        return Failed(no_server(server, detail), fate)
    plain = _BY_GRPC.get(code, InvalidInput if code in _CALLER_S_FAULT else EngineFailed)
    if plain is Overloaded and _LARGER.search(detail):
        plain = TooLarge
    return _failure(plain, detail or f"gRPC status {code} of {server}", trailers, refused=True)


def no_server(server: str, found: object) -> Unavailable:
    """Nobody there, or nobody any more."""
    return Unavailable(f"server at {server}", found=found, wanted="a server that answers")


def out_of_time(server: str, timeout: float) -> DeadlineExceeded:
    """The caller's time is over."""
    return DeadlineExceeded(f"no answer of {server} within {timeout:g} s", mend="allow a longer timeout")


def unreadable(server: str, found: object) -> EngineFailed:
    """An answer that is none of this protocol."""
    return EngineFailed(f"answer of {server}", found=found, wanted="one of the Open Inference Protocol v2")


def _failure(plain: Kind, detail: str, headers: Mapping[str, str], *, refused: bool) -> Failed:
    kind = _BY_NAME.get(headers.get(ERROR_KIND, ""), plain)
    hint = _hint(headers)
    fate = Fate.NOT_BEGUN if kind in (Overloaded, Unavailable) and refused else Fate.FINAL
    if kind is Overloaded:
        return Failed(Overloaded(_RETRY_AFTER_AT_END.sub("", detail), retry_after=hint), fate, hint)
    error = CorruptBundle(detail, mend=None) if kind is CorruptBundle else kind(detail)
    return Failed(error, fate, hint)


def _hint(headers: Mapping[str, str]) -> float:
    """Seconds after which the server says to come back; 0 where it doesn't, or gives a date."""
    for name, unit in ((RETRY_AFTER_MS, 1e-3), (RETRY_AFTER, 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if 0 <= seconds < math.inf:
            return seconds
    return 0.0


def _said(body: bytes) -> str:
    """One line of what a server says of its error."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    text = value.get("error") if isinstance(value, dict) else None
    return " ".join((text if isinstance(text, str) else body[:200].decode(errors="replace")).split())
