"""Texts of all lengths for the soak, with the answers that are right, and what a given answer says of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nlpdeploy.runtime.predictor import Predictor
from nlpdeploy.wire import codec_json, codec_proto, oip
from nlpdeploy.wire.tensors import InferResponse

from .messages import nearness, right_labels

_WORDS_PER_TOKEN = 0.85


@dataclass(frozen=True)
class SoakText:
    """A text and what is right for it.

    Attributes:
        text: the text.
        tokens: its length, special tokens included.
        labels: right labels, several where they tie; empty for a task without labels.
        score: the in-process score.
        near: how far from it a score may be.
    """

    text: str
    tokens: int
    labels: tuple[str, ...]
    score: float
    near: float


def soak_texts(predictor: Predictor, texts: Sequence[str], count: int, rng: np.random.Generator) -> list[SoakText]:
    """Texts of 1 token to a little past the usable maximum, log-uniform, joined from the words of real ones."""
    words = " ".join(texts).split()
    longest = predictor.model.max_length
    made = []
    for share in rng.permutation(count) / (count - 1):
        size = max(1, round(_WORDS_PER_TOKEN * longest ** (1.05 * share)))
        first = int(rng.integers(len(words)))
        made.append(" ".join(words[(first + k) % len(words)] for k in range(size)))
    rows, near = predictor.encode(made), nearness(predictor)
    labels = right_labels(predictor, made)
    scores = [predictor([text])[0].score for text in made]
    return [
        SoakText(text, len(row), right, score, near)
        for text, row, right, score in zip(made, rows, labels, scores, strict=True)
    ]


def wrong_in_predict(body: bytes, asked: Sequence[SoakText]) -> int:
    """How many answers of a ``/predict`` are wrong: another label, another score, or none."""
    answer = json.loads(body)
    given = answer["predictions"] if len(asked) > 1 else [answer]
    if len(given) != len(asked):
        return len(asked)
    return sum(not _right(text, one.get("label"), one["score"]) for text, one in zip(asked, given, strict=True))


def wrong_in_infer(body: bytes, asked: Sequence[SoakText]) -> int:
    """The same for an ``/infer`` in JSON."""
    return _wrong(codec_json.decode_response(body), asked)


def wrong_in_message(message: bytes, asked: Sequence[SoakText]) -> int:
    """The same for a serialised ``ModelInferResponse``."""
    return _wrong(codec_proto.decode_response(oip.ModelInferResponse.FromString(message)), asked)


def _wrong(response: InferResponse, asked: Sequence[SoakText]) -> int:
    outputs = {tensor.name: tensor.data for tensor in response.outputs}
    if any(data.shape != (len(asked),) for data in outputs.values()):
        return len(asked)
    labels = [label.decode() for label in outputs["label"].tolist()] if "label" in outputs else [None] * len(asked)
    scores = outputs["score"].tolist()
    return sum(not _right(text, label, score) for text, label, score in zip(asked, labels, scores, strict=True))


def _right(text: SoakText, label: str | None, score: float) -> bool:
    return abs(score - text.score) <= text.near and (not text.labels or label in text.labels)
