"""Right answers of a data file in the terms of the model: class indices, sets of classes, or numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bundle.errors import InvalidInput
from ..bundle.specs import ModelSpec, Task

Cell = tuple[str, Any]
"""Where a value is (``row 7``), and the value: a cell of a table, or whatever JSON holds."""

Gold = npt.NDArray[np.int64] | npt.NDArray[np.bool_] | npt.NDArray[np.float64]
SEPARATORS = ("|", ";", ",")
"""Between the labels of one cell; the first of them that occurs counts."""


def gold_labels(cells: Sequence[Cell], model: ModelSpec, where: str) -> tuple[Gold, list[str]]:
    """Labels of the data as the model counts them.

    Args:
        cells: one a text.
        model: task and labels.
        where: file and column, for messages.

    Returns:
        Classification: INT64 [n]; multi-label: BOOL [n, classes]; regression: FP64 [n]. And how they were read.

    Raises:
        InvalidInput: labels that the model doesn't know, with their names and the first row, or no numbers.
    """
    if model.task is Task.REGRESSION:
        return np.array([_number(cell, where) for cell in cells], dtype=np.float64), []
    if model.task is Task.CLASSIFICATION:
        names = [(place, _name(value)) for place, value in cells]
        index, notes = _class_index(names, model, where)
        return np.array([index[name] for _, name in names], dtype=np.int64), notes
    sets = [(place, _label_set(value, model.labels)) for place, value in cells]
    index, notes = _class_index([(place, name) for place, members in sets for name in members], model, where)
    marks = np.zeros((len(sets), len(model.labels)), dtype=np.bool_)
    for row, (_, members) in enumerate(sets):
        marks[row, [index[name] for name in members]] = True
    return marks, notes


def _class_index(names: Sequence[tuple[str, str]], model: ModelSpec, where: str) -> tuple[dict[str, int], list[str]]:
    """Class index by label of the data: by name, or by number where no name is the model's and all are indices."""
    index: dict[str, int] = {}
    for number, label in enumerate(model.labels):
        index.setdefault(label, number)
    found = dict.fromkeys(name for _, name in names)
    unknown = [name for name in found if name not in index]
    notes = []
    if len(unknown) == len(found) and all(name.isdecimal() for name in found):
        index = {str(number): number for number in range(len(model.labels))}
        unknown = [name for name in found if name not in index]
        notes = [f"labels of {where} are numbers: they were read as indices of the model's classes"] if found else []
    if unknown:
        place = next(place for place, name in names if name == unknown[0])
        raise InvalidInput(
            f"labels of {where} that the model doesn't know",
            found=f"{_some(unknown)}, first in {place}",
            wanted=f"some of {_some(list(model.labels))}",
            mend="name the right column with --label-column, or the model's labels with --labels FILE",
        )
    return index, notes


def _name(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a column of integers with gaps is often written as 3.0
    return str(value).strip()


def _label_set(value: Any, labels: Sequence[str]) -> list[str]:
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            value = value.strip()
    if isinstance(value, list):
        return [_name(item) for item in value]
    text = "" if value is None else _name(value)
    if not text:
        return []
    if text in labels:
        return [text]
    separator = next((s for s in SEPARATORS if s in text), None)
    return [part.strip() for part in text.split(separator) if part.strip()] if separator else [text]


def _number(cell: Cell, where: str) -> float:
    place, value = cell
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InvalidInput(f"{where}, {place}", found=repr(value)[:40], wanted="a number") from None
    if not math.isfinite(number):
        raise InvalidInput(f"{where}, {place}", found=value, wanted="a finite number")
    return number


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
