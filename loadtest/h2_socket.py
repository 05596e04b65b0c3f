"""A socket that is written to without ever waiting, and read by one thread (a greenlet, under gevent's patches)."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time

from ..wire.address import Address
from ..wire.http_connection import prepare_socket

_FOR_EVER = 1e6  # a timeout all the same: with one, the system's socket does not block


class QuietSocket:
    """One connection.

    Args:
        address: of the server.
        deadline: seconds of ``time.monotonic`` until which it must stand.

    Raises:
        OSError: it does not.
    """

    def __init__(self, address: Address, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no time left to connect")
        self._socket = socket.create_connection((address.host, address.port), timeout=left)
        prepare_socket(self._socket)
        self._socket.settimeout(_FOR_EVER)
        self._lock = threading.Lock()
        self._unsent: list[bytes] = []
        self._draining = self._closed = False

    def put(self, data: bytes) -> None:
        """Send; what the system doesn't take at once follows in order, without whoever sends waiting for it.

        Raises:
            OSError: the connection is no more.
        """
        with self._lock:
            if self._closed:
                raise ConnectionError("the connection is closed")
            if not self._draining:
                try:
                    sent = os.write(self._socket.fileno(), data)
                except BlockingIOError:
                    sent = 0
                if sent == len(data):
                    return
                data, self._draining = data[sent:], True
                threading.Thread(target=self._drain, daemon=True).start()
            self._unsent.append(data)

    def read(self, most: int) -> bytes:
        """What has come, at least a byte; empty at the end.

        Raises:
            OSError: the connection broke.
        """
        return self._socket.recv(most)

    def close(self) -> None:
        """Close it; whoever reads wakes by it."""
        with self._lock:
            self._closed = True
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()

    def _drain(self) -> None:
        with contextlib.suppress(OSError):  # the reader learns of it
            while True:
                with self._lock:
                    if not self._unsent:
                        self._draining = False
                        return
                    data = b"".join(self._unsent)
                    self._unsent.clear()
                self._socket.sendall(data)
