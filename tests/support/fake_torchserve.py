"""A server with TorchServe's inference address that does what a test says, and a plane with such servers behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlpdeploy.serve.metrics import Metrics
from nlpdeploy.serve.plane import DataPlane
from nlpdeploy.serve.served_model import Capacity
from nlpdeploy.serve.upstream_instance import Limits
from nlpdeploy.serve.upstream_model import UpstreamModel
from nlpdeploy.serve.upstream_spec import read_upstreams
from nlpdeploy.serve.upstreams import connect

LABELS = ("even", "odd")
DIGEST = "d" * 64


@dataclass
class Asked:
    """A request as it came.

    Attributes:
        target: path.
        headers: by lower-case name.
        body: the bytes.
    """

    target: str
    headers: dict[str, str]
    body: bytes

    def texts(self) -> list[str]:
        """The texts of an inference request."""
        return list(json.loads(self.body)["inputs"][0]["data"])


Action = Callable[[Asked, asyncio.StreamWriter], Awaitable[bool]]
"""What is done about a request; whether the connection stays open."""


def description(**changes: Any) -> dict[str, Any]:
    """What an archive of nlpdeploy says of itself."""
    said = {
        "nlpdeploy": 1, "version": "3", "bundle_digest": DIGEST, "engine": "onnx-fp32", "runtime": "onnxruntime",
        "precision": "fp32", "layout": "padded", "task": "classification", "activation": "softmax",
        "activation_source": "problem_type", "labels": list(LABELS), "pair": False, "max_length": 16,
        "inputs": ["text"], "outputs": ["label", "score"], "workers": 1, "batch_size": 1,
    }  # fmt: skip
    return {**said, **changes}


def outputs_for(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Outputs by name: a text's label says whether its length is odd, and its score is 1 over that length."""
    odd, scores = [len(text) % 2 for text in texts], [1 / max(len(text), 1) for text in texts]
    columns: dict[str, tuple[str, list[int], list[Any]]] = {
        "label": ("BYTES", [], [LABELS[one] for one in odd]),
        "score": ("FP32", [], scores),
        "scores": ("FP32", [2], [value for one in scores for value in (one, 1 - one)]),
        "logits": ("FP32", [2], [value for one in scores for value in (one, -one)]),
        "tokens": ("INT32", [], [min(len(text), 16) for text in texts]),
        "truncated": ("BOOL", [], [len(text) > 16 for text in texts]),
    }
    return {
        name: {"name": name, "datatype": dtype, "shape": [len(texts), *shape], "data": data}
        for name, (dtype, shape, data) in columns.items()
    }


def answer_to(asked: Asked, **changes: Any) -> dict[str, Any]:
    """The answer of a model that works, as JSON's own types; ``changes`` are to its outputs, by name."""
    known = outputs_for(asked.texts())
    for name, change in changes.items():
        known[name] |= change
    wanted = [entry["name"] for entry in json.loads(asked.body)["outputs"]]
    said = {"bundle_digest": DIGEST, "engine": "onnx-fp32"}
    outputs = [known[name] for name in wanted]
    return {"model_name": "m", "model_version": "3", "parameters": said, "outputs": outputs}


def message(body: Any, status: int = 200, *, length: int | None = None) -> bytes:
    """An answer of HTTP; a body that is no bytes is put into JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status} \r\ncontent-length: {len(raw) if length is None else length}\r\n\r\n".encode() + raw


async def works(asked: Asked, writer: asyncio.StreamWriter) -> bool:
    """The right answer."""
    writer.write(message(answer_to(asked)))
    return True


def says(body: Any, status: int = 200, *, stay: bool = True) -> Action:
    """This answer."""

    async def act(asked: Asked, writer: asyncio.StreamWriter) -> bool:
        writer.write(message(body, status))
        return stay

    return act


def writes(raw: bytes) -> Action:
    """These bytes, and the end of the connection."""

    async def act(asked: Asked, writer: asyncio.StreamWriter) -> bool:
        writer.write(raw)
        return False

    return act


def error(status: int, kind: str, text: str = "no") -> Action:
    """An error as TorchServe's frontend says it, after which it closes the connection."""
    return says({"code": status, "type": kind, "message": text}, status, stay=False)


NO_ROOM = error(503, "ServiceUnavailableException", "Model has no worker to serve inference request")


@dataclass
class FakeTorchServe:
    """One of them.

    Attributes:
        act: what is done about a prediction.
        said: its description; None for a handler that has none, which sees such a request as a prediction.
        status: its health.
        key: the token that it wants.
        port: where it listens, from its first start on.
        asked: the predictions, in order.
    """

    act: Action = works
    said: dict[str, Any] | None = field(default_factory=description)
    status: str = "Healthy"
    key: str | None = None
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _silent: bool = False

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """As when its process dies: nobody listens, and every connection ends."""
        if self._server is not None:
            self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0.02)

    def hang(self) -> None:
        """Take everything and say nothing any more."""
        self._silent = True

    @property
    def place(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._one(reader, writer):
                    await writer.drain()
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        asked = Asked(head[0].split()[1], headers, await reader.readexactly(int(headers["content-length"])))
        if self._silent:
            await asyncio.sleep(3600)
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            given = headers.get("authorization", "")
            return await error(400, "InvalidKeyException", f"Token Authorization failed: {given}")(asked, writer)
        if asked.target == "/ping":
            return await says({"status": self.status}, 200 if self.status != "Unhealthy" else 500)(asked, writer)
        if asked.target.split("/")[2] == "missing":
            return await error(404, "ModelNotFoundException", "Model not found: missing")(asked, writer)
        if headers.get("describe") == "true" and self.said is not None:
            return await says(self.said)(asked, writer)
        self.asked.append(asked)
        return await self.act(asked, writer)


@contextlib.asynccontextmanager
async def fronted(
    *fakes: FakeTorchServe,
    name: str = "m",
    path: str = "",
    key_file: Path | None = None,
    wait: float = 5.0,
    capacity: Capacity | None = None,
    requests: int | None = None,
    default_timeout: float = 10.0,
) -> AsyncIterator[DataPlane]:
    """A plane that serves a model with the answers of these servers, those that have no port yet started before."""
    for fake in fakes:
        if not fake.port:
            await fake.start()
    metrics = Metrics()
    capacity = capacity or Capacity()
    plane = DataPlane(capacity, default_timeout=default_timeout, metrics=metrics)
    places = ",".join(fake.place for fake in fakes)
    upstreams = read_upstreams([f"{name}=torchserve://{places}{path}"], [str(key_file)] if key_file else [])
    try:
        for model in await connect(upstreams, capacity, metrics, Limits(1 << 20, requests), wait):
            plane.adopt(model)
        plane.open()
        yield plane
    finally:
        await plane.drain(0.0)
        assert plane.close()
        for fake in fakes:
            await fake.stop()


def upstream_of(plane: DataPlane) -> UpstreamModel:
    """The one model of the plane."""
    (model,) = plane.served()
    assert isinstance(model, UpstreamModel)
    return model
