"""One call on an HTTP/2 connection: what it waits for, and what came back."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from ..wire.h2_headers import Fields


class Gone(ConnectionError):
    """The connection takes no more calls, and this one was not looked at: another connection may be asked."""


@dataclass(slots=True)
class Call:
    """One request on its way, and what came back.

    Attributes:
        window: bytes of data that the server takes on its stream.
        head, trailers: header fields of the answer; ``head`` is None where there were only trailers.
        data: pieces of the answer.
        failure: status code and text of an answer that broke off.
        untouched: it broke off before the server looked at it.
        ended: when, in seconds of ``time.monotonic``.
    """

    window: int
    head: Fields | None = None
    trailers: Fields | None = None
    data: list[bytes] = field(default_factory=list)
    failure: tuple[int, str] | None = None
    untouched: bool = False
    ended: float = 0.0
    number: int = 0
    over: threading.Lock = field(default_factory=threading.Lock)  # held until it has ended
