"""A real TorchServe on a real JVM, started by the command, and clients for its three interfaces."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from .cli import start

FREE_PORTS = [
    word
    for name in ("http", "management", "metrics", "grpc", "grpc-management")
    for word in (f"--{name}-port", "0")
]  # fmt: skip
START_SECONDS = 240


@dataclass
class TorchServe:
    """A started command.

    Attributes:
        process: the command's process.
        ready: its JSON line.
        log: what it and TorchServe said, line by line, as it comes.
    """

    process: subprocess.Popen[str]
    ready: dict[str, Any]
    log: list[str] = field(default_factory=list)

    def key(self, kind: str = "inference") -> str:
        """A token."""
        return str(json.loads(Path(self.ready["key_file"]).read_text())[kind]["key"])

    def headers(self, kind: str = "inference") -> dict[str, str]:
        """The header that a request needs."""
        return {"Authorization": f"Bearer {self.key(kind)}"} if self.ready["key_file"] else {}

    def post(self, path: str, body: bytes, content_type: str | None = "application/json") -> tuple[int, Any]:
        """Status and body of a request to the inference address, the body as what its JSON says."""
        headers = {**self.headers(), **({"Content-Type": content_type} if content_type else {})}
        return request("POST", self.ready["http_port"], path, body, headers)

    def predict(self, model: str, value: Any) -> tuple[int, Any]:
        """Status and answer of ``/predictions/{model}`` for a JSON body."""
        return self.post(f"/predictions/{model}", json.dumps(value).encode())

    def describe(self, model: str) -> dict[str, Any]:
        """What the management API says of a model (``name/version``)."""
        headers = self.headers("management")
        _, described = request("GET", self.ready["management_port"], f"/models/{model}", None, headers)
        return dict(described[0])

    def workers(self, model: str) -> list[dict[str, Any]]:
        """A model's workers."""
        return list(self.describe(model)["workers"])


def request(method: str, port: int, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, Any]:
    """Status and body, the body as JSON where it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    try:
        return response.status, json.loads(text)
    except ValueError:
        return response.status, text


@contextlib.contextmanager
def torchserve(*arguments: object, **options: Any) -> Iterator[TorchServe]:
    """``nlpdeploy torchserve`` on free ports until the block ends.

    Raises:
        AssertionError: it ended before it was ready, with what it had said.
    """
    process = start("torchserve", *FREE_PORTS, "--json", *arguments, **options)
    log: list[str] = []
    lines: queue.Queue[str] = queue.Queue()
    readers = [
        threading.Thread(target=_lines, args=(process.stderr, log.append), daemon=True),
        threading.Thread(target=_lines, args=(process.stdout, lines.put), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        line = lines.get(timeout=START_SECONDS)
        if not line:
            process.wait(30)
            readers[0].join(5)
            raise AssertionError("it ended: " + "\n".join(log))
        yield TorchServe(process, json.loads(line), log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
        for reader in readers:
            reader.join(5)


def _lines(stream: Any, take: Any) -> None:
    for line in stream:
        take(line.rstrip("\n"))
    take("")


def group(pgid: int) -> set[int]:
    """Processes of a process group that still run."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[0] != "Z" and int(fields[2]) == pgid:
                found.add(int(stat.parent.name))
    return found


def grpc_predict(server: TorchServe, model: str, inputs: Mapping[str, bytes], version: str = "") -> Any:
    """TorchServe's own gRPC: the JSON that ``Predictions`` answers."""
    messages = _messages()
    asked = messages["PredictionsRequest"](model_name=model, model_version=version, input=dict(inputs))
    with grpc.insecure_channel(f"127.0.0.1:{server.ready['grpc_port']}") as channel:
        call = channel.unary_unary(
            "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=messages["PredictionResponse"].FromString,
        )
        metadata = [(name.lower(), value) for name, value in server.headers().items()]
        return json.loads(call(asked, timeout=60, metadata=metadata).prediction)


def _messages() -> dict[str, Any]:
    """The two messages, as in TorchServe's inference.proto."""
    file = descriptor_pb2.FileDescriptorProto(
        name="torchserve_inference.proto", package="org.pytorch.serve.grpc.inference", syntax="proto3"
    )
    kinds = descriptor_pb2.FieldDescriptorProto
    asked = file.message_type.add(name="PredictionsRequest")
    asked.field.add(name="model_name", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    asked.field.add(name="model_version", number=2, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    entry = asked.nested_type.add(name="InputEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=kinds.TYPE_BYTES, label=kinds.LABEL_OPTIONAL)
    asked.field.add(
        name="input", number=3, type=kinds.TYPE_MESSAGE, label=kinds.LABEL_REPEATED,
        type_name=".org.pytorch.serve.grpc.inference.PredictionsRequest.InputEntry",
    )  # fmt: skip
    answered = file.message_type.add(name="PredictionResponse")
    answered.field.add(name="prediction", number=1, type=kinds.TYPE_BYTES, label=kinds.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("PredictionsRequest", "PredictionResponse")
    prefix = "org.pytorch.serve.grpc.inference."
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(prefix + name)) for name in names}
