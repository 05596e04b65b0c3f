"""HTTP with blocking sockets: a pool of connections for any number of threads."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

from ..wire.address import Address
from ..wire.http1 import AnswerParser, MalformedAnswer
from ..wire.http_connection import prepare_socket
from .deadline import Deadline
from .failures import out_of_time
from .http1 import request_bytes
from .http_transport import broken_off, check_connections, not_connected, read_reply
from .questions import Question, Reply
from .retry import Failed

_PIECE = 64 * 1024  # bytes a read


class HttpTransport:
    """Connections that stay open for the next request, the latest used first.

    Args:
        address: of the server.
        connections: most at once; a request above that waits for one.

    Raises:
        InvalidInput: less than one connection.
    """

    def __init__(self, address: Address, connections: int) -> None:
        self._address, self._server = address, str(address)
        self._idle: list[socket.socket] = []
        self._places = threading.BoundedSemaphore(check_connections(connections))
        self._closed = False

    def send(self, question: Question[Any], deadline: Deadline) -> Reply:
        """Send once and wait for the answer.

        Raises:
            Failed: there is none, or it is an error.
        """
        if not self._places.acquire(timeout=max(0.0, deadline.left())):
            raise Failed(out_of_time(self._server, deadline.timeout))
        try:
            connection, used = self._take(deadline)
            answer = AnswerParser()
            try:
                self._exchange(connection, question, answer, deadline)
            except (OSError, MalformedAnswer) as error:
                connection.close()
                if used:
                    self._drop_idle()  # as old as this one, and as dead
                raise broken_off(self._server, error, answer, deadline, used=used) from error
            except BaseException:  # the caller leaves: closed, the connection tells the server so
                connection.close()
                raise
            self._keep(connection, answer)
        finally:
            self._places.release()
        return read_reply(self._server, answer)

    def close(self) -> None:
        """Close the idle connections; those at work close with their answer."""
        self._closed = True
        self._drop_idle()

    def _exchange(
        self, connection: socket.socket, question: Question[Any], answer: AnswerParser, deadline: Deadline
    ) -> None:
        left = _left(deadline)
        connection.settimeout(left)
        # A server may refuse what is too large while it is still being sent: its answer is what counts.
        with contextlib.suppress(ConnectionError):
            connection.sendall(request_bytes(question, self._address.authority, left))
        while not answer.complete:
            connection.settimeout(_left(deadline))
            answer.feed(connection.recv(_PIECE))

    def _keep(self, connection: socket.socket, answer: AnswerParser) -> None:
        if not answer.reusable:
            connection.close()
            return
        self._idle.append(connection)
        if self._closed:  # looked at afterwards: another thread may close the client at any moment
            self._drop_idle()

    def _take(self, deadline: Deadline) -> tuple[socket.socket, bool]:
        """A connection, and whether it was used before."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._connect(deadline), False
            if _is_open(connection):
                return connection, True
            connection.close()

    def _connect(self, deadline: Deadline) -> socket.socket:
        host, port = self._address.host, self._address.port
        failure: OSError = OSError("no address for that name")
        try:
            for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                connection = socket.socket(family, kind, protocol)
                try:
                    prepare_socket(connection)
                    connection.settimeout(_left(deadline))
                    connection.connect(address)
                    return connection
                except OSError as error:
                    failure = error
                    connection.close()
                except BaseException:
                    connection.close()
                    raise
        except OSError as error:  # the name is unknown
            failure = error
        raise not_connected(self._server, failure, deadline) from failure

    def _drop_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()


def _is_open(connection: socket.socket) -> bool:
    """Whether an idle connection is silent, as it should be: no end, no error, no bytes that nobody asked for."""
    connection.settimeout(0)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _left(deadline: Deadline) -> float:
    left = deadline.left()
    if left <= 0:
        raise TimeoutError
    return left
