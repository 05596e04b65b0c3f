"""What can be said of an HTTP request for inference whose body nobody has parsed. Pure."""

from __future__ import annotations

import re

from ..wire.json_large import LARGE
from .http_messages import Request

_MAYBE_NO_ROWS = re.compile(rb"\[\s*[\]0]")
"""An empty list, or a shape that begins with 0; also in a text, whose request is then read like any other."""
_OWN_WORDS = (b"priority", b"timeout", b"\\u006", b"\\u007")
"""Parameters that change a request's place or deadline, or letters of their names escaped."""


def may_be_judged(form: str, request: Request) -> bool:
    """Whether a body surely has a row, if it is any request, and names neither priority nor deadline of its own.

    Args:
        form: ``predict``, which has no parameters, or ``infer``.
        request: the request.
    """
    body = request.body
    if len(body) > LARGE or "content-encoding" in request.headers or _MAYBE_NO_ROWS.search(body):
        return False
    return form == "predict" or not any(word in body for word in _OWN_WORDS)
