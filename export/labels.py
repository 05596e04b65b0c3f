"""What a sequence classifier answers: labels, task, output function. Pure functions over ``config.json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..bundle.errors import InvalidInput, NotFound, Unsupported
from ..bundle.specs import Activation, Task

TASK_OF_PROBLEM = {
    "regression": Task.REGRESSION,
    "multi_label_classification": Task.MULTI_LABEL,
    "single_label_classification": Task.CLASSIFICATION,
}


def read_labels(file: Path) -> tuple[str, ...]:
    """Labels from a UTF-8 text file, one a line, in order of the logits.

    Raises:
        NotFound, InvalidInput: no such file; not UTF-8; no labels.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise NotFound(f"file of labels {file} ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"file of labels {file} is not UTF-8 ({error.reason} at byte {error.start})") from None
    labels = tuple(line.strip() for line in lines if line.strip())
    if not labels:
        raise InvalidInput(f"file of labels {file}", found="no labels", wanted="one a line")
    return labels


def labels_for_head(
    config: Mapping[str, Any], rows: int, given: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], list[str]]:
    """One label for each row of the head.

    Args:
        config: the parsed ``config.json``.
        rows: classes that the weights have.
        given: labels that the caller gave instead.

    Returns:
        The labels in order of the logits, and notes.

    Raises:
        InvalidInput: another number of labels than rows, or indices with gaps.
    """
    labels = given if given is not None else _labels_of(config)
    if labels is None:
        names = tuple(f"LABEL_{index}" for index in range(rows))
        return names, [f"config.json names no labels: {names[0]} to {names[-1]} are used; name them with --labels FILE"]
    if len(labels) != rows:
        source = "--labels" if given is not None else "id2label of config.json"
        raise InvalidInput(
            f"{source} against the weights",
            found=f"{len(labels)} labels for a head with {rows} rows",
            wanted=f"{rows} labels",
            mend="give them with --labels FILE, one a line in order of the rows",
        )
    twice = [name for name, count in Counter(labels).items() if count > 1]
    notes = [f"labels stand for several classes: {', '.join(twice)}"] if twice else []
    return labels, notes


def _labels_of(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    by_index = config.get("id2label")
    if by_index is None and isinstance(config.get("label2id"), Mapping):
        by_index = {index: name for name, index in config["label2id"].items()}
    if by_index is None:
        return None
    if isinstance(by_index, list):
        return tuple(str(name) for name in by_index)
    try:
        names = {int(key): str(name) for key, name in by_index.items()}
    except (AttributeError, TypeError, ValueError):
        raise InvalidInput("id2label of config.json", found=repr(by_index)[:80], wanted="labels by index") from None
    if sorted(names) != list(range(len(names))):
        raise InvalidInput(
            "indices of id2label in config.json",
            found=f"{min(names, default=0)} to {max(names, default=0)} for {len(names)} labels",
            wanted=f"0 to {len(names) - 1} without gaps",
            mend="give the labels with --labels FILE, one a line in order of the rows",
        )
    return tuple(names[index] for index in range(len(names)))


def decide_task(config: Mapping[str, Any], classes: int, wanted: str | None) -> Task:
    """The task that a head with so many classes does.

    Args:
        config: the parsed ``config.json``.
        classes: rows of the head.
        wanted: the task that the caller named.

    Raises:
        InvalidInput: an unknown task, or one that needs more classes.
        Unsupported: a regression with several outputs.
    """
    problem = config.get("problem_type")
    if wanted is not None:
        if wanted not in list(Task):
            raise InvalidInput("--task", found=wanted, wanted=f"one of {', '.join(Task)}")
        task = Task(wanted)
    elif problem is None or classes == 1:
        # One output of a single-label head can only be a score.
        multi = problem == "multi_label_classification"
        task = Task.MULTI_LABEL if multi else Task.REGRESSION if classes == 1 else Task.CLASSIFICATION
    elif problem in TASK_OF_PROBLEM:
        task = TASK_OF_PROBLEM[problem]
    else:
        raise InvalidInput("problem_type of config.json", found=problem, wanted=f"one of {', '.join(TASK_OF_PROBLEM)}")
    if task is Task.CLASSIFICATION and classes == 1:
        raise InvalidInput("classification", found="a head with 1 row", wanted="at least 2", mend="--task regression")
    if task is Task.REGRESSION and classes > 1:
        raise Unsupported(f"regression with {classes} outputs", wanted="1 output")
    return task


def decide_activation(
    config: Mapping[str, Any], task: Task, classes: int, wanted: str | None, *, task_given: bool
) -> tuple[Activation, str, list[str]]:
    """The output function from logits to scores, as Transformers' text classification pipeline chooses it.

    Returns:
        The function, why that one, and notes.

    Raises:
        InvalidInput: an unknown function, or softmax over one class.
    """
    if wanted is not None:
        if wanted not in list(Activation):
            raise InvalidInput("--activation", found=wanted, wanted=f"one of {', '.join(Activation)}")
        if wanted == Activation.SOFTMAX and classes == 1:
            raise InvalidInput("--activation", found="softmax over 1 class, always 1.0", wanted="sigmoid or none")
        return Activation(wanted), "--activation", []
    problem = config.get("problem_type")
    if task_given:
        usual = {Task.CLASSIFICATION: Activation.SOFTMAX, Task.MULTI_LABEL: Activation.SIGMOID}
        return usual.get(task, Activation.NONE), "--task", []
    if problem == "regression":
        return Activation.NONE, "problem_type", []
    if problem == "multi_label_classification":
        return Activation.SIGMOID, "problem_type", []
    if classes == 1:
        source = "default for one label, as in Transformers"
        note = (
            "one label and no problem_type: scores go through sigmoid as in Transformers; change with --activation none"
        )
        return Activation.SIGMOID, source, [note]
    return Activation.SOFTMAX, "problem_type" if problem else "default for several labels, as in Transformers", []
