"""What HTTP connections share: how much, how many, how long, and who answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from .http_messages import AtOnce, Handler


@dataclass(frozen=True)
class HttpLimits:
    """How much, how many, how long; a client that is past one of them is answered or cut, never waited for.

    Attributes:
        body: bytes of a request's body, above it 413.
        head: bytes of a request's line and headers, above it 431; a head that ends amid a header, one read more.
        connections: open ones; above it the one idle for longest makes room, and where none is the new one gets 503.
        pipelined: requests sent ahead on a connection before it is read no further; nor is it where the bodies sent
            ahead come to more than ``body``.
        idle: seconds a connection may stay without a request.
        rested: seconds without a request, before which no connection has to make room for another.
        reading: seconds from a request's first byte to its last, above it 408.
        writing: seconds a client may leave an answer unread.
        lingering: seconds, after a refusal, in which what is still being sent is read and thrown away: a client that
            is cut while it sends never sees the answer.
    """

    body: int = 32 * 1024 * 1024
    head: int = 64 * 1024
    connections: int = 4096
    pipelined: int = 64
    idle: float = 300.0
    rested: float = 1.0
    reading: float = 60.0
    writing: float = 60.0
    lingering: float = 5.0


class OpenConnection(Protocol):
    """What the server asks of a connection."""

    expires: float
    """When its time is over, on ``time.monotonic``."""

    def idle_since(self) -> float:
        """When it became idle, on ``time.monotonic``; infinity while a request runs or is on its way."""
        ...

    def expire(self) -> None:
        """Its time is over."""
        ...

    def close_if_idle(self) -> None:
        """Close unless a request runs or is on its way."""
        ...

    def make_way(self) -> None:
        """Close an idle one, at once where the client hasn't even taken the last answer."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


@dataclass
class ServerState:
    """What a server's connections share.

    Attributes:
        handler: answers one request.
        at_once: asked before it, where nothing goes before a request on its connection.
        limits: for each connection and for all.
        refused: told the status of each answer that the handler has no part in: 400, 405, 408, 413, 431, 503.
        connections: the open ones.
        draining: whether each connection ends with its next answer.
    """

    handler: Handler
    at_once: AtOnce
    limits: HttpLimits
    refused: Callable[[int], None]
    connections: set[OpenConnection] = field(default_factory=set)
    draining: bool = False

    def make_room(self, now: float) -> bool:
        """Close the connection that has been idle for longest; False where none has rested."""
        longest = min(self.connections, key=lambda connection: connection.idle_since())
        if longest.idle_since() > now - self.limits.rested:
            return False
        self.connections.discard(longest)
        longest.make_way()
        return True
