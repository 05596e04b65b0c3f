"""Requests as ready bytes, and what right answers look like in bytes, so that clients do next to nothing."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from nlpdeploy.runtime.predictor import Predictor
from nlpdeploy.wire import codec_json, codec_proto
from nlpdeploy.wire.codec_raw import bytes_array
from nlpdeploy.wire.tensors import InferRequest, Tensor

ROUNDING = 1e-4


@dataclass(frozen=True)
class Question:
    """One text as each transport sends it, and the marks of right answers.

    Attributes:
        predict: an HTTP request to ``/predict``.
        infer_http: an HTTP request to ``/infer``, JSON.
        infer_grpc: a serialised ``ModelInferRequest``, raw.
        json_marks: an answer in JSON is right if it holds one of these; empty where the task has no labels.
        raw_marks: the same for raw tensors.
    """

    predict: bytes
    infer_http: bytes
    infer_grpc: bytes
    json_marks: tuple[bytes, ...]
    raw_marks: tuple[bytes, ...]


def questions(model: str, texts: Sequence[str], labels: Sequence[Sequence[str]]) -> list[Question]:
    """The texts one by one, ``labels`` being what is right for each."""
    return [
        Question(
            predict=http_request(f"/v2/models/{model}/predict", predict_body([text])),
            infer_http=http_request(f"/v2/models/{model}/infer", infer_body(model, [text])),
            infer_grpc=infer_message(model, [text]),
            json_marks=tuple(json.dumps(label, ensure_ascii=False).encode() for label in right),
            raw_marks=tuple(struct.pack("<I", len(label.encode())) + label.encode() for label in right),
        )
        for text, right in zip(texts, labels, strict=True)
    ]


def nearness(predictor: Predictor) -> float:
    """How far apart two scores of one text may be: rounding, where company changes no answer of the engine.

    Where its proof found that company does change them (bf16), answers alone and in company are each as far from the
    reference as the proof says, in logits; a softmax halves that.
    """
    parity = predictor.manifest.engine(predictor.engine.id).parity
    return max(ROUNDING, parity.max_abs_error) if parity and parity.company else ROUNDING


def right_labels(predictor: Predictor, texts: Sequence[str]) -> list[tuple[str, ...]]:
    """The in-process answer to each text asked alone, with labels that tie with it; empty for a task without labels."""
    near = nearness(predictor)
    answers = [predictor([text])[0] for text in texts]
    return [tuple(name for name, score in answer.scores.items() if score >= answer.score - near) for answer in answers]


def http_request(path: str, body: bytes, headers: Sequence[str] = (), method: str = "POST") -> bytes:
    """A whole HTTP/1.1 request."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "host: 127.0.0.1",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def predict_body(texts: Sequence[str]) -> bytes:
    """The body of a ``/predict``: one text as itself, more as a list."""
    return json.dumps({"text": texts[0] if len(texts) == 1 else list(texts)}, ensure_ascii=False).encode()


def infer_body(model: str, texts: Sequence[str]) -> bytes:
    """The body of an ``/infer``."""
    return codec_json.encode_request(_request(model, texts), binary=False).content


def infer_message(model: str, texts: Sequence[str]) -> bytes:
    """A serialised ``ModelInferRequest``."""
    return bytes(codec_proto.encode_request(_request(model, texts)).SerializeToString())


def _request(model: str, texts: Sequence[str]) -> InferRequest:
    return InferRequest(model, (Tensor("text", "BYTES", bytes_array([len(texts)], [t.encode() for t in texts])),))
