"""What gRPC connections share: how much, how many, how long."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .h2_connection import H2Connection


@dataclass(frozen=True)
class GrpcLimits:
    """How much, how many, how long; a client that is past one of them is answered or cut, never waited for.

    Attributes:
        message_bytes: of a message, either way, compressed or not; above it RESOURCE_EXHAUSTED.
        header_bytes: of a call's metadata; above it RESOURCE_EXHAUSTED.
        connections: open ones; further ones are refused.
        streams: calls under way on one connection; more of them wait at the client.
        slow_client: seconds for the handshake, for a request that is one message to be whole, for an answer to a ping
            (which is sent after as long a silence), and for which answers may be left unread.
        idle: seconds a connection may stay without a call.
        age: seconds after which a connection is told to close, so that clients find new servers.
    """

    message_bytes: int = 32 * 1024 * 1024
    header_bytes: int = 64 * 1024
    connections: int = 4096
    streams: int = 1024
    slow_client: float = 60.0
    idle: float = 300.0
    age: float = math.inf


@dataclass
class ConnectionState:
    """A server's limits and its open connections."""

    limits: GrpcLimits
    connections: set[H2Connection] = field(default_factory=set)
