"""The shapes and words of a model: tensors, tasks, labels, limits. Plain values that check themselves."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .errors import InvalidInput

Dtype = str
"""An Open Inference Protocol datatype: BOOL, INT8 … INT64, UINT8 … UINT64, FP16, FP32, FP64, BYTES."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, datatype and shape of a tensor; -1 is an axis of any size.

    The datatype is the Open Inference Protocol's word (``INT64``, ``FP32``, ``BYTES``, …).
    """

    name: str
    dtype: Dtype
    shape: tuple[int, ...]


_TEXT_INPUTS = (TensorSpec("text", "BYTES", (-1,)), TensorSpec("text_pair", "BYTES", (-1,)))
_DEFAULT_OUTPUTS = (TensorSpec("label", "BYTES", (-1,)), TensorSpec("score", "FP32", (-1,)))


class Task(enum.StrEnum):
    """What the model answers, which decides inputs, outputs and the default output function."""

    CLASSIFICATION = "classification"
    MULTI_LABEL = "multi-label"
    REGRESSION = "regression"


class Activation(enum.StrEnum):
    """From logits to scores, row by row."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    NONE = "none"


class Layout(enum.StrEnum):
    """How an engine wants its rows.

    ``padded``: one row a text, padded to the longest, with an attention mask.
    ``packed``: all texts in one row without padding, with positions, segments and first-token indices.
    """

    PADDED = "padded"
    PACKED = "packed"


class EngineState(enum.StrEnum):
    """Where an engine of a bundle stands; nothing is left out in silence."""

    READY = "ready"
    FAILED = "failed"
    SKIPPED = "skipped"
    UNPROVEN = "unproven"


@dataclass(frozen=True)
class ModelSpec:
    """What a caller must know of a model to ask it and to read its answers.

    Attributes:
        task: what it answers.
        activation: the output function from logits to scores.
        activation_source: why that one, e.g. ``problem_type`` or ``default for one label, as in Transformers``.
        labels: one name a class, in order of the logits.
        pair: whether inputs are pairs (``text`` and ``text_pair``).
        max_length: usable tokens of a row, special tokens included.
        pad_id: token id that fills padded rows.
    """

    task: Task
    activation: Activation
    activation_source: str
    labels: tuple[str, ...]
    pair: bool
    max_length: int
    pad_id: int

    def __post_init__(self) -> None:
        if not self.labels:
            raise InvalidInput("label list", found="no labels", wanted="at least one")
        if self.max_length < 1:
            raise InvalidInput("max_length", found=self.max_length, wanted="at least 1")

    def text_inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs by text: ``text`` BYTES [-1], for pairs also ``text_pair`` BYTES [-1]."""
        return _TEXT_INPUTS[: 1 + self.pair]

    def default_outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs of a request that names none."""
        return _DEFAULT_OUTPUTS[self.task is Task.REGRESSION :]

    def outputs(self) -> tuple[TensorSpec, ...]:
        """All outputs that can be asked for by name, the default ones first."""
        classes = len(self.labels)
        scores = () if self.task is Task.REGRESSION else (TensorSpec("scores", "FP32", (-1, classes)),)
        return (
            *self.default_outputs(),
            *scores,
            TensorSpec("logits", "FP32", (-1, classes)),
            TensorSpec("tokens", "INT32", (-1,)),
            TensorSpec("truncated", "BOOL", (-1,)),
        )
