"""The protocol over HTTP/1.1: plain sockets with keep-alive, one request at a time on each.

A full HTTP client spends more on a request than a small model does; here a send is one ``sendall`` of ready bytes.
"""

from __future__ import annotations

import json
import socket
import time

import httptools

from ..bundle.errors import InvalidInput
from ..wire.address import Address
from ..wire.codec_json import decode_response, encode_request
from ..wire.json_metadata import decode_model_metadata
from ..wire.tensors import InferResponse, ModelMetadata
from ..wire.timing import SERVER_TIMING
from .client import Reply, infer_request, refused
from .samples import Outcome

_PIECE = 65536
_TIMING = SERVER_TIMING.encode()
_OK, _GATEWAY_TIMEOUT = 200, 504


class HttpClient:
    """A pool of connections that grows with the requests under way."""

    def __init__(self, address: Address, model: str, version: str) -> None:
        self._address = address
        self._model, self._version = model, version
        self._path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "")
        self._idle: list[socket.socket] = []

    def metadata(self, timeout: float) -> ModelMetadata:
        """See :class:`~nlpdeploy.loadtest.client.Client`."""
        reply = self.send(self._message("GET", self._path), time.monotonic() + timeout)
        if reply.outcome is not Outcome.OK:
            raise refused(f"model {self._model} at {self._address}", reply)
        return decode_model_metadata(reply.body)

    def encode(self, text: str, pair: str | None = None, outputs: tuple[str, ...] = ()) -> bytes:
        """See :class:`~nlpdeploy.loadtest.client.Client`."""
        body = encode_request(infer_request(self._model, self._version, text, pair, outputs), binary=False).content
        return self._message("POST", f"{self._path}/infer", body)

    def send(self, request: bytes, deadline: float) -> Reply:
        """See :class:`~nlpdeploy.loadtest.client.Client`."""
        connection = None
        try:
            connection = self._take(deadline)
            connection.settimeout(_left(deadline))
            connection.sendall(request)
            answer = _Answer()
            while not answer.complete:
                connection.settimeout(_left(deadline))
                piece = connection.recv(_PIECE)
                if not piece:
                    raise ConnectionError("the server closed the connection before the answer was whole")
                answer.parser.feed_data(piece)
            ended = time.monotonic()
        except TimeoutError:
            return _given_up(connection, Outcome.TIMEOUT, "no answer in time")
        except (OSError, httptools.HttpParserError) as error:
            return _given_up(connection, Outcome.ERROR, str(error) or type(error).__name__)
        except BaseException:  # the greenlet is killed with half an answer read: the connection is of no more use
            if connection is not None:
                connection.close()
            raise
        if answer.keep_alive:
            self._idle.append(connection)
        else:
            connection.close()
        status, body = answer.parser.get_status_code(), b"".join(answer.pieces)
        if status == _OK:
            return Reply(Outcome.OK, ended, status, body, timing=answer.timing.decode("latin-1"))
        outcome = Outcome.TIMEOUT if status == _GATEWAY_TIMEOUT else Outcome.ERROR
        return Reply(outcome, ended, status, detail=body[:200].decode(errors="replace"))

    def read(self, body: bytes) -> InferResponse:
        """See :class:`~nlpdeploy.loadtest.client.Client`."""
        try:
            return decode_response(body)
        except InvalidInput as error:
            said = _said(body)
            raise InvalidInput("the answer", found=said or error.line(), wanted="outputs") from error

    def close(self) -> None:
        """See :class:`~nlpdeploy.loadtest.client.Client`."""
        while self._idle:
            self._idle.pop().close()

    def _message(self, method: str, path: str, body: bytes = b"") -> bytes:
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self._address.authority}\r\nAccept: application/json\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def _take(self, deadline: float) -> socket.socket:
        """An idle connection that the server hasn't closed meanwhile, the latest used first; else a new one."""
        while self._idle:
            connection = self._idle.pop()
            connection.settimeout(0)
            try:
                connection.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return connection
            except OSError:
                pass
            connection.close()  # an end, an error, or bytes that nobody asked for
        connection = socket.create_connection((self._address.host, self._address.port), timeout=_left(deadline))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


class _Answer:
    """Collects one answer; httptools calls the methods."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.pieces: list[bytes] = []
        self.complete = False
        self.keep_alive = False
        self.timing = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == _TIMING:
            self.timing = value

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def on_message_complete(self) -> None:
        self.complete = True
        self.keep_alive = self.parser.should_keep_alive()


def _said(body: bytes) -> str:
    """What a server says that sends its error with status 200."""
    try:
        value = json.loads(body)
    except ValueError:
        return ""
    return f"error: {value['error']}" if isinstance(value, dict) and "error" in value else ""


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _given_up(connection: socket.socket | None, outcome: Outcome, detail: str) -> Reply:
    if connection is not None:
        connection.close()
    return Reply(outcome, time.monotonic(), 0, detail=detail)
