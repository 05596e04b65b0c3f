"""A call over HTTP/1.1 as bytes. Knows no sockets."""

from __future__ import annotations

from typing import Any

from ..wire.http1 import request_message
from ..wire.timing import TIMEOUT_HEADER
from .questions import Question


def request_bytes(question: Question[Any], authority: str, left: float) -> bytes:
    """A whole request.

    Args:
        question: method, path, headers and body.
        authority: ``host:port``.
        left: seconds that the caller will wait, which the server is told.
    """
    headers = [
        ("host", authority),
        ("user-agent", "nlpdeploy"),
        (TIMEOUT_HEADER, f"{max(left, 1e-3) * 1000:.3f}"),
        *question.headers,
    ]
    return request_message(question.method, question.target, headers, question.body)
