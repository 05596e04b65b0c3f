"""Models whose archive another tool packed: they take a text, and their JSON may tell a label and a score. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..bundle.errors import EngineFailed, InvalidInput
from ..bundle.specs import ModelSpec, TensorSpec
from ..runtime.tasks import Scored
from ..runtime.text import Row
from ..wire.json_text import parse_json
from ..wire.tensors import Tensor
from .answers import AnswerForm

UNKNOWN = "unknown"
PROBE = b"hello"
"""A text for handlers that can't say what they are."""
TOLD_FORMS = 'JSON with a label and a score: {"label": …, "score": …}, or scores by label'
_SCORE_NAMES = ("score", "confidence", "probability")
_NO_TOKENS = np.empty(0, dtype=np.int64)
_DEEPEST = 4
"""Lists in lists, and under ``predictions``."""
_NOTHING = np.empty(0, dtype=np.float32)


class ToldModel(ModelSpec):
    """A model of which only its answers are known: a label and a score of each text."""

    def outputs(self) -> tuple[TensorSpec, ...]:
        """The two."""
        return self.default_outputs()


@dataclass(frozen=True)
class ToldRow(Row):
    """A text whose answer came in words.

    Attributes:
        label: as the other server said it.
    """

    label: str = ""


class ToldAnswers(AnswerForm):
    """Answers whose labels came in words, with the rows."""

    def tensors(self, rows: Sequence[Row], scored: Any, names: tuple[str, ...]) -> tuple[Tensor, ...]:
        """See :class:`AnswerForm`."""
        values = self.values(rows, scored, names)
        return tuple(_tensor(name, [value[name] for value in values]) for name in names)

    def values(self, rows: Sequence[Row], scored: Any, names: tuple[str, ...]) -> list[dict[str, Any]]:
        """See :class:`AnswerForm`."""
        both = [
            {"label": row.label if isinstance(row, ToldRow) else "", "score": scored[index].score}
            for index, row in enumerate(rows)
        ]
        return [{name: value[name] for name in names} for value in both]


def read_told(body: bytes) -> tuple[Row, Scored]:
    """A label and a score, from whatever JSON a handler of another maker gives for one text.

    Understood are ``{"label": …, "score": …}``, also with ``confidence`` or ``probability``; scores by label, of which
    the highest counts; a list of such, of which the best counts; and one of them under ``predictions``.

    Raises:
        EngineFailed: none of these, or a score that is not finite.
    """
    try:
        said = parse_json(body)
    except InvalidInput as error:
        raise EngineFailed("answer of the upstream", found=error.found, wanted=TOLD_FORMS) from None
    label, score = max(_told(said), key=lambda pair: pair[1])
    if not math.isfinite(score):
        raise EngineFailed("NaN or infinity in the upstream's score")
    return ToldRow(_NO_TOKENS, _NO_TOKENS, label=label), Scored(_NOTHING, _NOTHING, 0, score)


def _told(said: Any, depth: int = 0) -> list[tuple[str, float]]:
    if isinstance(said, dict):
        inside = said.get("predictions")
        if isinstance(inside, list) and len(inside) == 1 and depth < _DEEPEST:
            return _told(inside[0], depth + 1)
        score = next((said[name] for name in _SCORE_NAMES if _is_number(said.get(name))), None)
        if score is not None and isinstance(said.get("label"), str):
            return [(said["label"], _float(score))]
        if said and "label" not in said and all(map(_is_number, said.values())):
            return [(label, _float(score)) for label, score in said.items()]
    elif isinstance(said, list) and said and depth < _DEEPEST:
        return [pair for item in said for pair in _told(item, depth + 1)]
    found = f"an object with {', '.join(said)}"[:120] if isinstance(said, dict) else type(said).__name__
    raise EngineFailed("answer of the upstream", found=found, wanted=TOLD_FORMS)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _tensor(name: str, values: Sequence[Any]) -> Tensor:
    if name == "label":
        return Tensor(name, "BYTES", np.array([label.encode() for label in values], dtype=object))
    return Tensor(name, "FP32", np.array(values, dtype=np.float32))
