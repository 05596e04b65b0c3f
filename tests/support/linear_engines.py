"""Small engines that keep the contract, right and wrong in known ways, over one exact linear model of token ids."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from nlpdeploy.bundle.errors import EngineFailed
from nlpdeploy.bundle.specs import Activation, Layout, ModelSpec, Task, TensorSpec
from nlpdeploy.runtime.text import Row, TextEncoder

WORDS = "the a card was lost and my bank app shows no money since this morning please help me now".split()
TEXTS = tuple(" ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 2 + i % 9)) for i in range(1, 61))
VOCABULARY = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
Floats = npt.NDArray[np.float32]


def encoder(folder: Path, max_length: int = 96) -> TextEncoder:
    """A real word-level tokenizer with BERT's template."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", VOCABULARY["[CLS]"]), ("[SEP]", VOCABULARY["[SEP]"])],
    )
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return TextEncoder(path, max_length)


def model(task: Task = Task.CLASSIFICATION, classes: int = 3, max_length: int = 96) -> ModelSpec:
    """A spec with labels a, b, c, …"""
    activation = {
        Task.CLASSIFICATION: Activation.SOFTMAX,
        Task.MULTI_LABEL: Activation.SIGMOID,
        Task.REGRESSION: Activation.NONE,
    }[task]
    return ModelSpec(task, activation, "test", tuple("abcdefgh"[:classes]), False, max_length, 0)


class LinearEngine:
    """logits = the masked mean of a fixed table of token embeddings, times 10; ``change`` may spoil them.

    ``change`` takes (logits, feed) and returns logits; it may raise.
    """

    def __init__(
        self,
        name: str = "exact",
        classes: int = 3,
        change: Callable[[Floats, dict[str, npt.NDArray[np.int64]]], npt.NDArray[np.floating]] | None = None,
        delay: Callable[[int, int], float] = lambda rows, length: 0.0,
    ) -> None:
        self.id = name
        self.layout = Layout.PADDED
        names = ("input_ids", "attention_mask", "token_type_ids")
        self.inputs = tuple(TensorSpec(name, "INT64", (-1, -1)) for name in names)
        self.outputs = (TensorSpec("logits", "FP32", (-1, classes)),)
        rng = np.random.default_rng(7)
        table = rng.normal(size=(len(VOCABULARY), classes))
        # Centred, so that no class wins every text.
        self._table = (table - table[4:].mean(axis=0)).astype(np.float32)
        self._table[:4] = 0.1 * self._table[:4]
        self._segment = np.outer([0.0, 1.0], rng.normal(size=classes)).astype(np.float32)
        self._change = change
        self._delay = delay
        self.calls: list[tuple[int, int]] = []

    def run(self, feed):
        ids, mask = feed["input_ids"], feed["attention_mask"][:, :, None]
        self.calls.append(ids.shape)
        pause = self._delay(*ids.shape)
        if pause:
            time.sleep(pause)
        states = self._table[ids] + self._segment[feed["token_type_ids"]]
        logits = (10.0 * (states * mask).sum(axis=1) / mask.sum(axis=1)).astype(np.float32)
        return {"logits": logits if self._change is None else self._change(logits, feed)}

    threads = 1

    def use_threads(self, threads: int) -> None:
        """As the reference has it."""

    def close(self) -> None:
        pass


class PackedLinearEngine(LinearEngine):
    """The same answers to texts in one row."""

    def __init__(self, name: str = "exact-packed", **options) -> None:
        super().__init__(name, **options)
        self.layout = Layout.PACKED
        names = ("input_ids", "position_ids", "segment_ids", "token_type_ids")
        packed = tuple(TensorSpec(name, "INT64", (1, -1)) for name in names)
        self.inputs = (*packed, TensorSpec("first_tokens", "INT64", (-1,)))

    def run(self, feed):
        ids, segments = feed["input_ids"][0], feed["segment_ids"][0]
        self.calls.append((1, len(ids)))
        pause = self._delay(1, len(ids))
        if pause:
            time.sleep(pause)
        mine = (segments == np.arange(len(feed["first_tokens"]))[:, None]).astype(np.float32)
        states = self._table[ids] + self._segment[feed["token_type_ids"][0]]
        logits = (10.0 * (mine @ states) / mine.sum(axis=1, keepdims=True)).astype(np.float32)
        return {"logits": logits if self._change is None else self._change(logits, feed)}


class NamelessEngine(LinearEngine):
    """Answers under another name."""

    def run(self, feed):
        return {"output_0": super().run(feed)["logits"]}


def raising(logits, feed):
    """A runtime that gives up."""
    raise EngineFailed("runtime ran out of memory")


def rows_of(folder: Path, texts=TEXTS) -> list[Row]:
    """The texts as rows."""
    return encoder(folder).encode(texts)
