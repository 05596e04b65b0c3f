"""What both HTTP transports make of an answer, of a lost connection, and of a new one. Pure."""

from __future__ import annotations

from ..bundle.errors import InvalidInput
from ..wire.http1 import AnswerParser, MalformedAnswer
from .deadline import Deadline
from .failures import http_failure, no_server, out_of_time, unreadable
from .questions import Reply
from .retry import Failed, Fate


def check_connections(connections: int) -> int:
    """The number of connections that may be open at once.

    Raises:
        InvalidInput: none.
    """
    if connections < 1:
        raise InvalidInput("connections", found=connections, wanted="at least 1")
    return connections


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
