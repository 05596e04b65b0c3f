"""Small engines in numpy that keep the ``Engine`` contract: exact, slow, broken in chosen rows, or dying."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nlpdeploy.bundle.manifest import EngineEntry, Manifest, Source
from nlpdeploy.bundle.specs import Activation, Layout, ModelSpec, Task, TensorSpec
from nlpdeploy.runtime.engine import Feed, Outputs
from nlpdeploy.runtime.predictor import Predictor
from nlpdeploy.runtime.text import TextEncoder

from .tokenizers import TINY_VOCABULARY, write_tiny_tokenizer

LABELS = ("hello", "world", "note", "问候")
KEYWORDS = ("hello", "world", "note", "人")
"""The word of the tiny vocabulary that stands for each label."""

INPUTS = (TensorSpec("input_ids", "INT64", (-1, -1)), TensorSpec("attention_mask", "INT64", (-1, -1)))
OUTPUTS = (TensorSpec("logits", "FP32", (-1, len(LABELS))),)


def token(word: str) -> int:
    """Id of a word of the tiny vocabulary."""
    return TINY_VOCABULARY.index(word)


def tiny_embedding() -> npt.NDArray[np.float32]:
    """FP32 [vocabulary, labels]: a keyword speaks for its label, other words only whisper."""
    table = np.linspace(-0.2, 0.2, len(TINY_VOCABULARY) * len(LABELS), dtype=np.float32)
    table = table.reshape(len(TINY_VOCABULARY), len(LABELS))
    for label, word in enumerate(KEYWORDS):
        table[token(word), label] = 16.0
    return table


def tiny_logits(input_ids: npt.NDArray[np.int64], attention_mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Mean of the embedded tokens of each row, padding left out: FP32 [rows, labels]."""
    mask = attention_mask[:, :, None].astype(np.float32)
    return np.asarray((tiny_embedding()[input_ids] * mask).sum(axis=1) / mask.sum(axis=1), dtype=np.float32)


class TinyEngine:
    """Answers by the keywords of a text.

    Args:
        seconds: sleep of each call, the interpreter lock released.
        nan_word: rows with this word come out as NaN.
        raise_word: a batch with this word in it raises a foreign error.
        die_word: a batch with this word in it raises what ends a thread.
        gate: each call waits until it is set.
    """

    id = "tiny"
    layout = Layout.PADDED
    inputs = INPUTS
    outputs = OUTPUTS

    def __init__(
        self,
        *,
        seconds: float = 0.0,
        nan_word: str | None = None,
        raise_word: str | None = None,
        die_word: str | None = None,
        gate: threading.Event | None = None,
    ) -> None:
        self.seconds = seconds
        self.nan_word, self.raise_word, self.die_word = nan_word, raise_word, die_word
        self.gate = gate
        self.batches: list[list[tuple[int, ...]]] = []
        self.closed = False

    def run(self, feed: Feed) -> Outputs:
        """Logits, after the faults that were asked for."""
        ids, mask = feed["input_ids"], feed["attention_mask"]
        self.batches.append([tuple(row[: int(length)]) for row, length in zip(ids, mask.sum(axis=1), strict=True)])
        if self.gate is not None:
            self.gate.wait()
        time.sleep(self.seconds)
        if self._holds(ids, self.die_word).any():
            raise SystemExit("the engine took the thread with it")
        if self._holds(ids, self.raise_word).any():
            raise ValueError("shape of the dance")
        logits = tiny_logits(ids, mask)
        logits[self._holds(ids, self.nan_word)] = np.nan
        return {"logits": logits}

    def close(self) -> None:
        """Nothing to free."""
        self.closed = True

    def rows_run(self) -> int:
        """Rows of all calls so far."""
        return sum(map(len, self.batches))

    @staticmethod
    def _holds(ids: npt.NDArray[np.int64], word: str | None) -> npt.NDArray[np.bool_]:
        return np.asarray((ids == (-1 if word is None else token(word))).any(axis=1))


def tiny_model(*, task: Task = Task.CLASSIFICATION, pair: bool = False, max_length: int = 16) -> ModelSpec:
    """The specification of the tiny model; regression has the first column alone."""
    activation = Activation.NONE if task is Task.REGRESSION else Activation.SOFTMAX
    return ModelSpec(task, activation, "chosen for the test", LABELS, pair, max_length, pad_id=0)


def tiny_manifest(model: ModelSpec, *, engines: tuple[EngineEntry, ...] = (), name: str = "tiny") -> Manifest:
    """A manifest without files and without golden samples."""
    source = Source("tiny", {}, "0" * 64, "TinyForSequenceClassification", "tiny", 64)
    default = engines[0].id if engines else "tiny"
    return Manifest(name, model, source, engines, default, (), "2026-01-01T00:00:00Z").sealed()


def tiny_predictor(
    folder: Path,
    engine: TinyEngine | None = None,
    model: ModelSpec | None = None,
    *,
    name: str = "tiny",
    others: Sequence[TinyEngine] = (),
) -> Predictor:
    """A predictor over the tiny tokenizer and a tiny engine, with ``others`` as further lanes."""
    spec = model or tiny_model()
    encoder = TextEncoder(write_tiny_tokenizer(folder / "tokenizer.json"), spec.max_length)
    return Predictor(tiny_manifest(spec, name=name), encoder, engine or TinyEngine(), others)
