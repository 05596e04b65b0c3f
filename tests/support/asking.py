"""One question over either front, and its end in the same words for both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any

import grpc
import numpy as np

from nlpdeploy.wire import codec_proto, oip
from nlpdeploy.wire.tensors import InferRequest, Parameter, Tensor

FRONTS = ("http", "grpc")
GRPC_STATUS = {
    200: "OK", 400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 413: "RESOURCE_EXHAUSTED", 429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip
"""What gRPC says where HTTP says the number."""


@dataclass(frozen=True)
class End:
    """How a request ended.

    Attributes:
        status: HTTP's number, or gRPC's word.
        detail: what a refusal said.
        headers: HTTP's headers or gRPC's trailing metadata.
        outputs: values by name, of an answer.
        id: as the answer gives it.
    """

    status: int | str
    detail: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, list[Any]] = field(default_factory=dict)
    id: str = ""

    def is_(self, status: int) -> bool:
        """Whether it is HTTP's ``status``, or what gRPC says for it."""
        return self.status in (status, GRPC_STATUS[status])


def question(
    texts: Sequence[str],
    *,
    model: str = "tiny",
    outputs: Sequence[str] = (),
    id: str = "",
    parameters: dict[str, Parameter] | None = None,
) -> InferRequest:
    """A request by text."""
    data = np.array([text.encode() for text in texts] or [], dtype=object)
    return InferRequest(
        model, (Tensor("text", "BYTES", data),), id=id, outputs=tuple(outputs), parameters=parameters or {}
    )


def ask(front: str, port: int, request: InferRequest, *, timeout: float = 30.0) -> End:
    """Ask on a connection of its own; ``timeout`` is the client's patience, of which HTTP's server isn't told."""
    return (_ask_http if front == "http" else _ask_grpc)(port, request, timeout)


def _ask_http(port: int, request: InferRequest, timeout: float) -> End:
    (tensor,) = request.inputs
    texts = [text.decode() for text in tensor.data.tolist()]
    body: dict[str, Any] = {
        "id": request.id,
        "parameters": dict(request.parameters),
        "inputs": [{"name": tensor.name, "datatype": tensor.dtype, "shape": list(tensor.shape), "data": texts}],
    }
    if request.outputs:
        body["outputs"] = [{"name": name} for name in request.outputs]
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", f"/v2/models/{request.model}/infer", json.dumps(body))
        response = connection.getresponse()
        content = json.loads(response.read())
        headers = {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()
    if response.status != 200:
        return End(response.status, content["error"], headers)
    outputs = {output["name"]: _shaped(output["data"], output["shape"]) for output in content["outputs"]}
    return End(200, "", headers, outputs, content.get("id", ""))


def _shaped(data: list[Any], shape: list[int]) -> list[Any]:
    assert len(data) == int(np.prod(shape))
    return data if len(shape) == 1 else [data[i * shape[1] : (i + 1) * shape[1]] for i in range(shape[0])]


def _ask_grpc(port: int, request: InferRequest, timeout: float) -> End:
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        infer = channel.unary_unary(oip.METHODS["ModelInfer"].path)
        try:
            raw, call = infer.with_call(codec_proto.encode_request(request).SerializeToString(), timeout=timeout)
        except grpc.RpcError as error:
            return End(error.code().name, error.details(), dict(error.trailing_metadata() or ()))
    response = codec_proto.decode_response(oip.METHODS["ModelInfer"].response.FromString(raw))
    outputs = {
        tensor.name: [x.decode() for x in tensor.data.tolist()] if tensor.dtype == "BYTES" else tensor.data.tolist()
        for tensor in response.outputs
    }
    return End("OK", "", dict(call.trailing_metadata() or ()), outputs, response.id)
