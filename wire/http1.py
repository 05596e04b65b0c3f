"""HTTP/1.1 as bytes (RFC 9112): a request written, an answer parsed piece by piece. Knows no sockets."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable

_STATUS_LINE = re.compile(r"HTTP/1\.([01]) (\d{3})(?: .*)?")
_MAX_HEAD = 64 * 1024  # bytes


class MalformedAnswer(ValueError):
    """Bytes that are no answer of HTTP/1.1."""


def request_message(method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes) -> bytes:
    """A whole request, its length given.

    Args:
        method: e.g. ``POST``.
        target: path and query, escaped.
        headers: ``host`` among them; neither names nor values may hold a line's end.
        body: may be empty.
    """
    lines = [f"{method} {target} HTTP/1.1", *[f"{name}: {value}" for name, value in headers]]
    return "\r\n".join([*lines, f"content-length: {len(body)}\r\n\r\n"]).encode("ascii") + body


class AnswerParser:
    """One answer. Interim answers (1xx) are passed over.

    Args:
        largest: bytes of a body above which the answer is refused; None for any.

    Attributes:
        begun: whether a byte has come.
        complete: whether all has.
        status: the HTTP status, once the head is read.
        headers: values by lower-case name; of a repeated one the last.
        body: decoded from chunks, once complete.
        reusable: whether the connection may carry another request, once complete.
    """

    def __init__(self, largest: int | None = None) -> None:
        self._largest = math.inf if largest is None else largest
        self._taken = 0
        self.begun = self.complete = self.reusable = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self._buffer = bytearray()
        self._step: Callable[[], bool] = self._read_head
        self._size = 0
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Bytes as they come; none at the connection's end.

        Raises:
            MalformedAnswer: they are no HTTP/1.1.
            ConnectionError: the end came before the answer was whole.
        """
        if not data:
            self._end()
            return
        self.begun = True
        self._buffer += data
        while not self.complete and self._step():
            pass
        if self.complete and self._buffer:
            self.reusable = False  # bytes that nobody asked for

    def _end(self) -> None:
        if self._step == self._read_until_end:
            self._finish(bytes(self._buffer), reusable=False)
        elif not self.complete:
            raise ConnectionError("the connection closed before " + ("the whole answer" if self.begun else "an answer"))

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 and len(self._buffer) <= _MAX_HEAD:
            return False
        if not 0 <= end <= _MAX_HEAD:
            raise MalformedAnswer(f"a head of more than {_MAX_HEAD} bytes")
        first, *lines = self._take(end, 4).decode("latin-1").split("\r\n")
        match = _STATUS_LINE.fullmatch(first)
        if match is None:
            raise MalformedAnswer(f"{first[:80]!r} for a status line")
        self.status = int(match[2])
        headers = [line.partition(":") for line in lines]
        if not all(colon for _, colon, _ in headers):
            raise MalformedAnswer("a header without a colon")
        self.headers = {name.strip().lower(): value.strip() for name, _, value in headers}
        if self.status >= 200:
            connection = self.headers.get("connection", "").lower()
            self.reusable = connection != "close" if match[1] == "1" else connection == "keep-alive"
            self._choose_framing()
        elif self.status == 101:
            raise MalformedAnswer("a change of protocol that nobody asked for")
        return True

    def _choose_framing(self) -> None:
        length = self.headers.get("content-length")
        if self.headers.get("transfer-encoding", "identity").lower() != "identity":
            if self.headers["transfer-encoding"].lower() != "chunked":
                raise MalformedAnswer(f"transfer-encoding {self.headers['transfer-encoding'][:80]!r}")
            self._step = self._read_chunk_size
        elif self.status in (204, 304):
            self._finish(b"", reusable=self.reusable)
        elif length is None:
            self._step = self._read_until_end
        elif length.isascii() and length.isdigit() and len(length) < 16:
            self._size, self._step = int(length), self._read_sized
            self._check_size(self._size)
        else:
            raise MalformedAnswer(f"content-length {length[:80]!r}")

    def _read_sized(self) -> bool:
        if len(self._buffer) < self._size:
            return False
        self._finish(self._take(self._size), reusable=self.reusable)
        return True

    def _read_until_end(self) -> bool:
        self._check_size(len(self._buffer))
        return False

    def _read_chunk_size(self) -> bool:
        line = self._take_line()
        if line is None:
            return False
        digits = line.partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9a-fA-F]{1,8}", digits):
            raise MalformedAnswer(f"{line[:80]!r} for the size of a chunk")
        self._size = int(digits, 16)
        self._taken += self._size
        self._check_size(self._taken)
        self._step = self._read_chunk if self._size else self._read_trailer
        return True

    def _read_chunk(self) -> bool:
        if len(self._buffer) < self._size + 2:
            return False
        if self._buffer[self._size : self._size + 2] != b"\r\n":
            raise MalformedAnswer("a chunk longer than its size")
        self._pieces.append(self._take(self._size, 2))
        self._step = self._read_chunk_size
        return True

    def _read_trailer(self) -> bool:
        line = self._take_line()
        if line is None:
            return False
        if not line:
            self._finish(b"".join(self._pieces), reusable=self.reusable)
        return True

    def _check_size(self, size: int) -> None:
        if size > self._largest:
            raise MalformedAnswer(f"a body of more than {self._largest} bytes")

    def _take_line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise MalformedAnswer(f"a line of more than {_MAX_HEAD} bytes")
            return None
        return self._take(end, 2)

    def _take(self, size: int, skip: int = 0) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[: size + skip]
        return taken

    def _finish(self, body: bytes, *, reusable: bool) -> None:
        self.body, self.reusable, self.complete = body, reusable, True
