"""Requests of each server's own kind as ready bytes, and what an answer with the right labels holds."""

from __future__ import annotations

import enum
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from nlpdeploy.wire import codec_json, codec_proto
from nlpdeploy.wire.codec_raw import bytes_array
from nlpdeploy.wire.tensors import InferRequest, Tensor

from ..messages import http_request, predict_body


class Form(enum.StrEnum):
    """How a server wants to be asked."""

    PREDICT = "predict"
    """Our plain JSON: ``POST /v2/models/M/predict``."""
    OIP_HTTP = "OIP over HTTP, binary tensors"
    OIP_GRPC = "OIP over gRPC"
    BATCHED_HTTP = "OIP over HTTP, binary tensors, [n, 1]"
    """As Triton wants it of a model that batches: a second axis."""
    BATCHED_GRPC = "OIP over gRPC, [n, 1]"
    LITSERVE = "LitServe's JSON"
    TORCHSERVE = "TorchServe's JSON"

    @property
    def transport(self) -> str:
        """``http`` or ``grpc``."""
        return "grpc" if self in (Form.OIP_GRPC, Form.BATCHED_GRPC) else "http"


@dataclass(frozen=True)
class Ask:
    """One request.

    Attributes:
        message: over HTTP the whole request, over gRPC a serialised ``ModelInferRequest``.
        marks: an answer that holds all of these has the right labels; empty where they aren't known.
    """

    message: bytes
    marks: tuple[bytes, ...] = ()


_PATHS = {
    Form.PREDICT: "/v2/models/{}/predict",
    Form.LITSERVE: "/{}/predict",
    Form.TORCHSERVE: "/predictions/{}",
}


def ask(form: Form, model: str, texts: Sequence[str], labels: Sequence[str] = ()) -> Ask:
    """The request for these texts.

    Args:
        form: how the server wants it.
        model: the model's name there.
        texts: one or more.
        labels: the right ones, in order; empty where they aren't known.
    """
    if form in _PATHS:
        message = http_request(_PATHS[form].format(model), predict_body(texts))
        return Ask(message, tuple(json.dumps(label, ensure_ascii=False).encode() for label in labels))
    shape = [len(texts), 1] if form in (Form.BATCHED_GRPC, Form.BATCHED_HTTP) else [len(texts)]
    request = InferRequest(model, (Tensor("text", "BYTES", bytes_array(shape, [t.encode() for t in texts])),))
    marks = tuple(struct.pack("<I", len(label.encode())) + label.encode() for label in labels)
    if form.transport == "grpc":
        return Ask(bytes(codec_proto.encode_request(request).SerializeToString()), marks)
    body = codec_json.encode_request(request, binary=True)
    headers = [] if body.header_length is None else [f"{codec_json.HEADER_LENGTH}: {body.header_length}"]
    return Ask(http_request(f"/v2/models/{model}/infer", body.content, headers), marks)


def asks(form: Form, model: str, texts: Sequence[str], labels: Sequence[str] = (), *, each: int = 1) -> list[Ask]:
    """Requests of ``each`` texts for all texts in their order; what is left over makes no request."""
    starts = range(0, len(texts) - each + 1, each)
    return [ask(form, model, texts[i : i + each], labels[i : i + each]) for i in starts]
