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

MODEL = "null"
ENGINE = "none"
_OUTPUTS: tuple[tuple[str, str], ...] = (("label", "BYTES"), ("score", "FP32"))
_START_SECONDS = 30.0


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


def _grpc_server() -> Any:
    import grpc

    from ..wire import oip

    answer = oip.ModelInferResponse(model_name=MODEL, model_version="1")
    answer.parameters["engine"].string_param = ENGINE
    for name, dtype in _OUTPUTS:
        answer.outputs.add(name=name, datatype=dtype, shape=[1])
    answer.raw_output_contents.extend([struct.pack("<I", 7) + b"nothing", struct.pack("<f", 1.0)])
    metadata = oip.METHODS["ModelMetadata"].response(**_metadata())
    ready = {"ModelInfer": answer.SerializeToString(), "ModelMetadata": metadata.SerializeToString()}

    def method(body: bytes) -> grpc.RpcMethodHandler:
        async def reply(request: bytes, context: Any) -> bytes:
            return body

        return grpc.unary_unary_rpc_method_handler(reply)

    handlers = {name: method(body) for name, body in ready.items()}
    service = oip.METHODS["ModelInfer"].path.split("/")[1]
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    return server


async def _serve() -> None:
    server = _grpc_server()
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    loop = asyncio.get_running_loop()
    http = await loop.create_server(_Http, "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(json.dumps({"grpc": grpc_port, "http": http.sockets[0].getsockname()[1]}) + "\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)  # until whoever started it is gone
    http.close()
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(_serve())
