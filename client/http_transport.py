"""What both HTTP transports make of an answer, of a lost connection, and of a new one. Pure but for socket options."""

from __future__ import annotations

import socket

from ..bundle.errors import InvalidInput
from .deadline import Deadline
from .failures import http_failure, no_server, out_of_time, unreadable
from .http1 import AnswerParser, MalformedAnswer
from .questions import Reply
from .retry import Failed, Fate

_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""Seconds without traffic before the first probe, between probes, and how many may be lost. Routers forget silent
connections; who then asks on one would wait out the deadline. A system that lacks an option keeps its own value."""


def check_connections(connections: int) -> int:
    """The number of connections that may be open at once.

    Raises:
        InvalidInput: none.
    """
    if connections < 1:
        raise InvalidInput("connections", found=connections, wanted="at least 1")
    return connections


def prepare_socket(connection: socket.socket) -> None:
    """No waiting for more to send, and probes while it is idle."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def read_reply(server: str, answer: AnswerParser) -> Reply:
    """The reply in a whole answer.

    Raises:
        Failed: it is an error.
    """
    if not 200 <= answer.status < 300:
        raise http_failure(server, answer.status, answer.headers, answer.body)
    return Reply(answer.body, answer.headers)


def not_connected(server: str, error: OSError, deadline: Deadline) -> Failed:
    """No connection could be made."""
    if deadline.left() <= 0:
        return Failed(out_of_time(server, deadline.timeout))
    return Failed(no_server(server, error.strerror or error), Fate.NOT_BEGUN)


def broken_off(
    server: str, error: OSError | MalformedAnswer, answer: AnswerParser, deadline: Deadline, *, used: bool
) -> Failed:
    """An answer did not come, or not whole.

    Args:
        server: for messages.
        error: why.
        answer: what came of it.
        deadline: the call's.
        used: whether the connection had carried an answer before.
    """
    if isinstance(error, MalformedAnswer):
        return Failed(unreadable(server, error))
    if isinstance(error, TimeoutError) and deadline.left() <= 0:
        return Failed(out_of_time(server, deadline.timeout))
    fate = Fate.FINAL if answer.begun else Fate.STALE if used else Fate.LOST
    return Failed(no_server(server, error.strerror or error), fate)
