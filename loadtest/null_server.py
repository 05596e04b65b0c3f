"""A server of the Open Inference Protocol that does nothing: what a client measures against it is the client itself.

Every request gets the same ready bytes, unread. As a process of its own, ``python -m nlpdeploy.loadtest.null_server``,
it says its two ports in one JSON line and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..wire import h2_frames as h2
from ..wire import oip
from ..wire.h2_headers import HeaderReader, write_headers

MODEL = "null"
ENGINE = "none"
_OUTPUTS: tuple[tuple[str, str], ...] = (("label", "BYTES"), ("score", "FP32"))
_WINDOW = 2**30  # bytes that a client may send ahead


@contextmanager
def null_server() -> Iterator[dict[str, str]]:
    """Start one on free loopback ports; gives its address by transport, and ends it.

    Raises:
        RuntimeError: it did not start.
    """
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None  # noqa: S101  (a pipe was asked for)
            line = child.stdout.readline()
            if not line:
                raise RuntimeError("the null server did not start")
            yield {transport: f"{transport}://127.0.0.1:{port}" for transport, port in json.loads(line).items()}
        finally:
            child.kill()


def _answer() -> dict[str, Any]:
    data: dict[str, list[Any]] = {"label": ["nothing"], "score": [1.0]}
    outputs = [{"name": name, "datatype": dtype, "shape": [1], "data": data[name]} for name, dtype in _OUTPUTS]
    return {"model_name": MODEL, "model_version": "1", "parameters": {"engine": ENGINE}, "outputs": outputs}


def _metadata() -> dict[str, Any]:
    outputs = [{"name": name, "datatype": dtype, "shape": [-1]} for name, dtype in _OUTPUTS]
    inputs = [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    return {"name": MODEL, "versions": ["1"], "platform": "none", "inputs": inputs, "outputs": outputs}


class _Http(asyncio.Protocol):
    """HTTP/1.1 with keep-alive; looks for the end of a request and at its path, at nothing else."""

    def __init__(self) -> None:
        import httptools

        self._parser = httptools.HttpRequestParser(self)
        self._get = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._transport.write(_METADATA if self._parser.get_method() == b"GET" else _ANSWER)


def _message(value: dict[str, Any]) -> bytes:
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


_ANSWER, _METADATA = _message(_answer()), _message(_metadata())


class _Grpc(asyncio.Protocol):
    """gRPC on HTTP/2: looks at the path of a call and for the end of its request, at nothing else."""

    def __init__(self) -> None:
        self._frames, self._headers = h2.FrameReader(), HeaderReader(1 << 16)
        self._paths: dict[int, bytes] = {}
        self._window, self._received = h2.DEFAULT_WINDOW, 0
        self._waiting: list[tuple[int, bytes]] = []  # answered, once the client takes more

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        settings = {h2.INITIAL_WINDOW_SIZE: h2.LARGEST_WINDOW, h2.MAX_CONCURRENT_STREAMS: h2.LARGEST_WINDOW}
        more = h2.number_frame(h2.WINDOW_UPDATE, 0, _WINDOW - h2.DEFAULT_WINDOW)
        transport.write(h2.settings_frame(settings) + more)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        try:
            out = [self._take(*each) for each in self._frames.feed(data)]
        except h2.ConnectionFault:
            self._transport.close()
            return
        self._transport.write(b"".join(out))

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        """What a frame is answered with."""
        if kind == h2.HEADERS:
            if not flags & h2.END_HEADERS:
                raise h2.ConnectionFault(h2.ErrorCode.INTERNAL_ERROR, "headers in pieces")
            self._paths[stream] = dict(self._headers.read(h2.unpadded(flags, payload)) or ()).get(b":path", b"")
        elif kind == h2.DATA:
            self._received += len(payload)
        elif kind == h2.WINDOW_UPDATE and not stream:
            self._window += h2.read_number(payload)
            waiting, self._waiting = self._waiting, []
            return b"".join([self._answer(*each) for each in waiting])
        elif kind == h2.SETTINGS and not flags & h2.ACK:
            return h2.frame(h2.SETTINGS, h2.ACK, 0)
        elif kind == h2.PING and not flags & h2.ACK:
            return h2.frame(h2.PING, h2.ACK, 0, payload)
        elif kind == h2.RST_STREAM:
            self._paths.pop(stream, None)
        if kind in (h2.HEADERS, h2.DATA) and flags & h2.END_STREAM and stream in self._paths:
            return self._more() + self._answer(stream, self._paths.pop(stream))
        return b""

    def _more(self) -> bytes:
        if self._received < _WINDOW // 2:
            return b""
        more, self._received = self._received, 0
        return h2.number_frame(h2.WINDOW_UPDATE, 0, more)

    def _answer(self, stream: int, path: bytes) -> bytes:
        body = _BODIES.get(path)
        if body is None:
            return h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream, _UNKNOWN)
        if len(body) > self._window:
            self._waiting.append((stream, path))
            return b""
        self._window -= len(body)
        head, data = h2.frame(h2.HEADERS, h2.END_HEADERS, stream, _HEAD), h2.frame(h2.DATA, 0, stream, body)
        return head + data + h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream, _TRAILERS)


_HEAD = write_headers([(b":status", b"200"), (b"content-type", b"application/grpc")])
_TRAILERS = write_headers([(b"grpc-status", b"0")])
_UNKNOWN = _HEAD + write_headers([(b"grpc-status", b"12")])


def _bodies() -> dict[bytes, bytes]:
    """The ready messages by the method's path."""
    answer = oip.ModelInferResponse(model_name=MODEL, model_version="1")
    answer.parameters["engine"].string_param = ENGINE
    for name, dtype in _OUTPUTS:
        answer.outputs.add(name=name, datatype=dtype, shape=[1])
    answer.raw_output_contents.extend([struct.pack("<I", 7) + b"nothing", struct.pack("<f", 1.0)])
    messages = {"ModelInfer": answer, "ModelMetadata": oip.METHODS["ModelMetadata"].response(**_metadata())}
    raw = {name: message.SerializeToString() for name, message in messages.items()}
    return {oip.METHODS[name].path.encode(): struct.pack(">BI", 0, len(body)) + body for name, body in raw.items()}


_BODIES = _bodies()


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    servers = {
        name: await loop.create_server(protocol, "127.0.0.1", 0, backlog=4096)
        for name, protocol in (("grpc", _Grpc), ("http", _Http))
    }
    ports = {name: server.sockets[0].getsockname()[1] for name, server in servers.items()}
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)  # until whoever started it is gone
    for server in servers.values():
        server.close()


if __name__ == "__main__":
    asyncio.run(_serve())
