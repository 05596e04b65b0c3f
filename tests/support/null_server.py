"""A server of the Open Inference Protocol without a model: real sockets, a settable delay and settable faults.

It runs in a process of its own, so that a test can freeze it with SIGSTOP. Messages are ``tritonclient``'s, which makes
it an independent reader of what our clients send. The label of a text tells whether its length is even or odd.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

DIGEST = "sha256:" + "ab" * 32


def label_of(text: str) -> str:
    """The right label of a text."""
    return "odd" if len(text) % 2 else "even"


@dataclass(frozen=True)
class NullServer:
    """A running server, as its test sees it."""

    pid: int
    grpc_port: int
    http_port: int

    def url(self, transport: str) -> str:
        """``grpc://…`` or ``http://…``."""
        return f"{transport}://127.0.0.1:{self.grpc_port if transport == 'grpc' else self.http_port}"

    def received(self) -> list[float]:
        """When each inference request came in, on the monotonic clock."""
        connection = HTTPConnection("127.0.0.1", self.http_port, timeout=5)
        connection.request("GET", "/received")
        times: list[float] = json.loads(connection.getresponse().read())
        connection.close()
        return times


@contextmanager
def null_server(*flags: str) -> Iterator[NullServer]:
    """Start one with these flags (see :func:`main`), end it at the end."""
    # By path: `-m support.null_server` would need tests/ on PYTHONPATH.
    child = subprocess.Popen([sys.executable, str(Path(__file__)), *flags], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        ready = json.loads(child.stdout.readline())
        yield NullServer(child.pid, ready["grpc"], ready["http"])
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


class Answers:
    """What the two fronts answer, and the faults among it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.received: list[float] = []
        self._owed = self._free = 0.0

    async def next_is_bad(self) -> bool:
        """Count a request, wait the delay, and say whether its answer is to be a bad one."""
        self.received.append(time.monotonic())
        if self.options.die_after and len(self.received) > self.options.die_after:
            os._exit(7)
        if self.options.delay_ms:
            await asyncio.sleep(self.options.delay_ms / 1000)
        if self.options.delays_ms:
            delays = self.options.delays_ms
            await asyncio.sleep(delays[(len(self.received) - 1) % len(delays)] / 1000)
        if self.options.serial_ms:
            # A turn of that length for each, one after the other: the sleep's own lateness is not added up.
            now = time.monotonic()
            self._free = max(now, self._free) + self.options.serial_ms / 1000
            await asyncio.sleep(self._free - now)
        self._owed += self.options.error_share
        if self._owed < 1 - 1e-9:
            return False
        self._owed -= 1
        return True

    def label(self, text: str) -> str:
        return self.options.wrong_label or label_of(text)

    @property
    def parameters(self) -> dict[str, str]:
        changed = self.options.digest_changes_after and len(self.received) > self.options.digest_changes_after
        digest = self.options.digest
        return {"bundle_digest": digest[:-1] + "0" if changed else digest, "engine": self.options.engine}


def metadata(model: str) -> dict[str, Any]:
    return {
        "name": model,
        "versions": ["1"],
        "platform": "null",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "score", "datatype": "FP32", "shape": [-1]},
        ],
    }


class HttpFront(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, one request at a time on a connection."""

    def __init__(self, answers: Answers) -> None:
        import httptools

        self.answers = answers
        self.parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.url, self.body = b"", b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        path = self.url.decode()
        if path.endswith("/infer"):
            task = asyncio.ensure_future(self.infer())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        elif path == "/received":
            self.answer(self.answers.received)
        elif path == f"/v2/models/{self.answers.options.model}":
            self.answer(metadata(self.answers.options.model))
        elif path == "/v2/health/ready":
            self.answer({"ready": True})
        else:
            self.answer({"error": f"nothing at {path}"}, "404 Not Found")

    async def infer(self) -> None:
        if await self.answers.next_is_bad():
            self.answer({"error": "queue full"}, self.answers.options.error_status)
            return
        text = json.loads(self.body)["inputs"][0]["data"][0]
        self.answer(
            {
                "model_name": self.answers.options.model,
                "model_version": "1",
                "parameters": self.answers.parameters,
                "outputs": [
                    {"name": "label", "datatype": "BYTES", "shape": [1], "data": [self.answers.label(text)]},
                    {"name": "score", "datatype": "FP32", "shape": [1], "data": [0.75]},
                ],
            }
        )

    def answer(self, value: object, status: str = "200 OK") -> None:
        body = json.dumps(value).encode()
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        if not self.transport.is_closing():
            self.transport.write(head.encode() + body)


tasks: set[asyncio.Future[None]] = set()


def grpc_front(answers: Answers) -> Any:
    """The servicer, in ``tritonclient``'s messages."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    class Front(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
        async def ServerReady(self, request: Any, context: Any) -> Any:
            return service_pb2.ServerReadyResponse(ready=True)

        async def ModelMetadata(self, request: Any, context: Any) -> Any:
            if request.name != answers.options.model:
                await context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.name}")
            return service_pb2.ModelMetadataResponse(**metadata(request.name))

        async def ModelInfer(self, request: Any, context: Any) -> Any:
            response = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
            for name, value in answers.parameters.items():
                response.parameters[name].string_param = value
            bad = await answers.next_is_bad()
            if bad and answers.options.error_status != "200 OK":
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full")
            rows = 0 if bad else 1
            response.outputs.add(name="label", datatype="BYTES", shape=[rows])
            response.outputs.add(name="score", datatype="FP32", shape=[rows])
            text = request.raw_input_contents[0] if request.raw_input_contents else b""
            typed = request.inputs[0].contents.bytes_contents
            label = answers.label((typed[0] if typed else text[4:]).decode()).encode()
            response.raw_output_contents.append(b"" if bad else struct.pack("<I", len(label)) + label)
            response.raw_output_contents.append(b"" if bad else struct.pack("<f", 0.75))
            return response

    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Front(), server)
    return server


async def serve(options: argparse.Namespace) -> None:
    answers = Answers(options)
    grpc_server = grpc_front(answers)
    grpc_port = grpc_server.add_insecure_port(f"127.0.0.1:{options.grpc_port}")
    await grpc_server.start()
    loop = asyncio.get_running_loop()
    http_server = await loop.create_server(lambda: HttpFront(answers), "127.0.0.1", options.http_port, backlog=4096)
    http_port = http_server.sockets[0].getsockname()[1]
    print(json.dumps({"grpc": grpc_port, "http": http_port}), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="intent")
    parser.add_argument("--grpc-port", type=int, default=0)
    parser.add_argument("--http-port", type=int, default=0)
    parser.add_argument("--delay-ms", type=float, default=0.0)
    parser.add_argument(
        "--delays-ms",
        type=lambda text: [float(delay) for delay in text.split(",")],
        default=[],
        help="of one request after the other, and again from the first: 10,10,45.4",
    )
    parser.add_argument(
        "--serial-ms", type=float, default=0.0, help="each request takes that long, one after the other"
    )
    parser.add_argument("--error-share", type=float, default=0.0, help="that share of answers is bad, evenly spread")
    parser.add_argument("--error-status", default="200 OK", help="HTTP status of bad answers; not 200: gRPC errors too")
    parser.add_argument("--wrong-label", help="answer this label to everything")
    parser.add_argument("--engine", default="null-fp32")
    parser.add_argument("--digest", default=DIGEST)
    parser.add_argument("--digest-changes-after", type=int, default=0, help="another bundle digest after N requests")
    parser.add_argument("--die-after", type=int, default=0, help="exit in the middle of request N + 1")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
