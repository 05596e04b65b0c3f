"""Servers that do what a script says, request by request, on real sockets, and write down what they got."""

from __future__ import annotations

import itertools
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

Action = Callable[[Any], bool]
"""What is done with a connection that a request has come on; whether it stays open."""

OUTPUT = {"name": "label", "datatype": "BYTES", "shape": [1], "data": ["yes"]}
ANSWER = json.dumps({"model_name": "m", "model_version": "1", "outputs": [OUTPUT]}).encode()


def answer(status: int = 200, body: bytes = ANSWER, **headers: str) -> Action:
    """A whole answer; the connection stays open."""
    named = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    message = f"HTTP/1.1 {status} Said\r\n{named}content-length: {len(body)}\r\n\r\n".encode() + body

    def act(connection: socket.socket) -> bool:
        connection.sendall(message)
        return True

    return act


def then_close(action: Action) -> Action:
    """The action, and the connection is closed after it unannounced."""

    def act(connection: socket.socket) -> bool:
        action(connection)
        return False

    return act


def when(gate: threading.Event, action: Action) -> Action:
    """The action, once the gate is set."""

    def act(connection: socket.socket) -> bool:
        gate.wait(30)
        return action(connection)

    return act


def say(message: bytes) -> Action:
    """These bytes, whatever they are, and the end."""

    def act(connection: socket.socket) -> bool:
        connection.sendall(message)
        return False

    return act


def close(connection: socket.socket) -> bool:
    """The connection's end, without a byte."""
    return False


def reset(connection: socket.socket) -> bool:
    """The connection's end as when a process dies."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def silence(connection: socket.socket) -> bool:
    """Nothing, until the client has left."""
    with suppress(OSError):
        connection.recv(1)
    return False


HALF = say(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")


@dataclass
class Received:
    """A request as it came.

    Attributes:
        connection: number of the connection, from 0.
        line: the request line.
        headers: by lower-case name.
        body: the body.
    """

    connection: int
    line: str
    headers: dict[str, str]
    body: bytes


class ScriptedHttp:
    """A server of HTTP; the script's last action goes on for ever.

    Attributes:
        port: where it is, or will be.
        received: the requests, in order.
    """

    def __init__(self, script: Sequence[Action]) -> None:
        self.script = script
        self.received: list[Received] = []
        self._lock = threading.Lock()
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))  # until it listens, whoever comes is refused
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    @property
    def connections(self) -> list[int]:
        """The connection that each request came on."""
        return [request.connection for request in self.received]

    def open(self) -> None:
        """Take connections."""
        self._listener.listen()
        self._accepting.start()

    def close(self) -> None:
        """Take no more."""
        if self._accepting.is_alive():
            self._listener.shutdown(socket.SHUT_RDWR)
            self._accepting.join(10)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            for number in itertools.count():
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with connection, connection.makefile("rb") as stream, suppress(OSError):
            while line := stream.readline().decode().strip():
                headers = {}
                while header := stream.readline().decode().strip():
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                body = stream.read(int(headers["content-length"]))
                with self._lock:
                    action = self.script[min(len(self.received), len(self.script) - 1)]
                    self.received.append(Received(number, line, headers, body))
                if not action(connection):
                    return


@contextmanager
def scripted_http(*script: Action, late: bool = False) -> Iterator[ScriptedHttp]:
    """Serve until the block ends; ``late``: from :meth:`ScriptedHttp.open` on."""
    server = ScriptedHttp(script)
    try:
        if not late:
            server.open()
        yield server
    finally:
        server.close()


@dataclass
class ScriptedGrpc:
    """A server of ``ModelInfer``; the script's last entry goes on for ever.

    Attributes:
        script: OK, or (status code, detail, trailing metadata).
        port: where it listens.
        received: messages of the requests.
        remaining: seconds of each one's deadline.
    """

    script: Sequence[Any]
    port: int = 0
    received: list[Any] = field(default_factory=list)
    remaining: list[float] = field(default_factory=list)


OK = None


@contextmanager
def scripted_grpc(*script: Any) -> Iterator[ScriptedGrpc]:
    """Serve until the block ends."""
    import grpc

    from nlpdeploy.wire import codec_json, codec_proto, oip

    seen = ScriptedGrpc(script)
    method = oip.METHODS["ModelInfer"]

    def infer(request: Any, context: Any) -> Any:
        entry = script[min(len(seen.received), len(script) - 1)]
        seen.received.append(request)
        seen.remaining.append(context.time_remaining())
        if entry is not OK:
            code, detail, trailers = entry
            context.set_trailing_metadata(tuple(trailers.items()))
            context.abort(code, detail)
        return codec_proto.encode_response(codec_json.decode_response(ANSWER))

    handler = grpc.unary_unary_rpc_method_handler(
        infer, request_deserializer=method.request.FromString, response_serializer=method.response.SerializeToString
    )
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(oip.SERVICE, {"ModelInfer": handler}),))
        seen.port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield seen
        finally:
            server.stop(0).wait(10)
