"""Texts and arrays -> a request's tensors, a response -> predictions. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bundle.errors import EngineFailed, InvalidInput, Unsupported
from ..wire.codec_raw import NUMBERS, Array, bytes_array
from ..wire.tensors import InferResponse, ModelMetadata, Parameter, Tensor

Texts = str | list[str] | tuple[str, ...]

_DATATYPES = {dtype: name for name, dtype in NUMBERS.items()}


@dataclass(frozen=True)
class Prediction:
    """One text's answer.

    Attributes:
        label: the winning label; None for regression.
        score: its score, or the regression's value.
        scores: by label, where they were asked for; else empty.
        truncated: whether the text was longer than the model reads, and was cut.
        model: name of the model that answered.
        version: its version.
        engine: id of the engine that computed it; empty where the server doesn't say.
        digest: the bundle's digest; empty where the server doesn't say.
    """

    label: str | None
    score: float
    scores: Mapping[str, float]
    truncated: bool
    model: str
    version: str
    engine: str
    digest: str


@dataclass(frozen=True)
class Inference:
    """The answer to a call by tensors.

    Attributes:
        outputs: arrays by name, rows first, in the order asked for; BYTES is an object array of ``bytes``.
        model: name of the model that answered.
        version: its version.
        id: the request's own.
        parameters: what the answer says of itself: ``bundle_digest``, ``engine``, ``truncated_rows``.
    """

    outputs: Mapping[str, Array]
    model: str
    version: str
    id: str
    parameters: Mapping[str, Parameter]


def text_tensors(text: Texts, text_pair: Texts | None) -> tuple[Tensor, ...]:
    """The inputs ``text`` and, for pairs, ``text_pair``; one text is a row like those of a list.

    Raises:
        InvalidInput: something else than text, half a surrogate pair, or not as many second texts as first ones.
    """
    texts = _column("text", text)
    if text_pair is None:
        return (texts,)
    pairs = _column("text_pair", text_pair)
    if isinstance(text, str) != isinstance(text_pair, str) or pairs.shape != texts.shape:
        found = "one text" if isinstance(text_pair, str) else f"a list of {len(pairs.data)}"
        wanted = "one text, as text is" if isinstance(text, str) else f"a list of {len(texts.data)}, as text is"
        raise InvalidInput("text_pair", found=found, wanted=wanted)
    return (texts, pairs)


def array_tensors(inputs: Mapping[str, npt.ArrayLike]) -> tuple[Tensor, ...]:
    """Inputs of arrays, or of what numpy makes arrays of; text is ``str`` or ``bytes``.

    Raises:
        InvalidInput: rows of several lengths, or a dtype that the protocol has no word for.
    """
    return tuple(_tensor(name, values) for name, values in inputs.items())


def output_names(outputs: Sequence[str]) -> tuple[str, ...]:
    """Names of outputs.

    Raises:
        InvalidInput: one name, whose letters would be taken for names.
    """
    if isinstance(outputs, str):
        raise InvalidInput("outputs", found=repr(outputs), wanted="a list of names")
    return tuple(outputs)


def request_parameters(priority: int) -> dict[str, Parameter]:
    """The parameters of a request: its priority, where it isn't the server's default.

    Raises:
        InvalidInput: no whole number from 0.
    """
    if isinstance(priority, bool) or not isinstance(priority, int) or priority < 0:
        raise InvalidInput("priority", found=repr(priority), wanted="1 for high, 0 or 2 for normal")
    return {"priority": priority} if priority else {}


def prediction_outputs(metadata: ModelMetadata, *, scores: bool) -> tuple[str, ...]:
    """The outputs to ask a model for, of those that it has: ``score``, ``label``, ``truncated``, ``scores``.

    Raises:
        Unsupported: it has no ``score``, or scores were asked for and it has none.
    """
    has = [spec.name for spec in metadata.outputs]
    needed = ("score", "scores") if scores else ("score",)
    missing = [name for name in needed if name not in has]
    if missing:
        wanted = f"one with the output {missing[0]}"
        raise Unsupported(f"predict with model {metadata.name}", found=f"outputs {', '.join(has)}", wanted=wanted)
    return (*[name for name in ("label", "truncated") if name in has], *needed)


def metadata_answers(metadata: ModelMetadata, response: InferResponse) -> bool:
    """Whether the metadata is of the bundle that answered; true where one of them doesn't say."""
    told, answered = metadata.properties.get("bundle_digest"), response.parameters.get("bundle_digest")
    return not told or not answered or told == answered


def read_labels(metadata: ModelMetadata, response: InferResponse) -> tuple[str, ...]:
    """Labels in the order of ``scores``; empty where the metadata doesn't say.

    Raises:
        EngineFailed: the property is no JSON list of strings, or is of another bundle than answered.
    """
    if not metadata_answers(metadata, response):
        found = f"those of bundle {metadata.properties['bundle_digest']}"
        wanted = f"those of {response.parameters['bundle_digest']}, which answered"
        raise EngineFailed(f"labels of model {metadata.name}", found=found, wanted=wanted)
    text = metadata.properties.get("labels", "[]")
    try:
        labels = json.loads(text)
    except ValueError:
        labels = None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise EngineFailed(f"labels of model {metadata.name}", found=text[:80], wanted="a JSON list of strings")
    return tuple(labels)


def read_predictions(response: InferResponse, rows: int, labels: Sequence[str] = ()) -> list[Prediction]:
    """One prediction a row.

    Args:
        response: with the outputs that :func:`prediction_outputs` names.
        rows: how many were asked for.
        labels: names of the columns of ``scores``; none: their numbers.

    Raises:
        EngineFailed: not an answer to that many rows.
    """
    columns = {tensor.name: _rows(tensor, rows) for tensor in response.outputs}
    scores = columns.get("scores")
    if scores is not None:
        labels = labels or [str(column) for column in range(len(scores[0]))]
        if len(labels) != len(scores[0]):
            raise EngineFailed("output scores", found=f"{len(scores[0])} columns", wanted=f"{len(labels)}, one a label")
    if "score" not in columns:
        raise EngineFailed("the answer", found=", ".join(columns) or "no outputs", wanted="the output score")
    engine, digest = (str(response.parameters.get(name, "")) for name in ("engine", "bundle_digest"))
    names = columns.get("label")
    cut = columns.get("truncated")
    return [
        Prediction(
            label=None if names is None else names[row].decode(errors="replace"),
            score=float(columns["score"][row]),
            scores={} if scores is None else dict(zip(labels, scores[row], strict=True)),
            truncated=bool(cut[row]) if cut is not None else False,
            model=response.model,
            version=response.version,
            engine=engine,
            digest=digest,
        )
        for row in range(rows)
    ]


def read_inference(response: InferResponse) -> Inference:
    """A response with its tensors by name."""
    outputs = {tensor.name: tensor.data for tensor in response.outputs}
    return Inference(outputs, response.model, response.version, response.id, response.parameters)


def _rows(tensor: Tensor, rows: int) -> list[Any]:
    axes = 2 if tensor.name == "scores" else 1
    if len(tensor.shape) != axes or tensor.shape[0] != rows or (tensor.name == "label") != (tensor.dtype == "BYTES"):
        found = f"{tensor.dtype} {list(tensor.shape)}"
        raise EngineFailed(f"output {tensor.name}", found=found, wanted=f"{rows} rows, {axes} axes")
    values: list[Any] = tensor.data.tolist()
    return values


def _column(name: str, texts: Texts) -> Tensor:
    if not isinstance(texts, str | list | tuple):
        raise InvalidInput(name, found=type(texts).__name__, wanted="str, or a list of str")
    column = [texts] if isinstance(texts, str) else texts
    return Tensor(name, "BYTES", bytes_array((len(column),), [_utf8(name, text) for text in column]))


def _tensor(name: str, values: npt.ArrayLike) -> Tensor:
    # An array of numpy's own strings would lose zeros at their ends: texts stay Python objects.
    array = values if isinstance(values, np.ndarray) else _as_array(name, values)
    if array.dtype.kind in "OUS":
        elements = [element if isinstance(element, bytes) else _utf8(name, element) for element in array.ravel()]
        return Tensor(name, "BYTES", bytes_array(array.shape, elements))
    datatype = _DATATYPES.get(array.dtype.newbyteorder("="))
    if datatype is None:
        raise InvalidInput(
            f"dtype of input {name}", found=array.dtype, wanted=f"text, {', '.join(_DATATYPES.values())}"
        )
    return Tensor(name, datatype, array)


def _as_array(name: str, values: npt.ArrayLike) -> Array:
    objects = np.asarray(values, dtype=object)
    if any(isinstance(value, str | bytes) for value in objects.ravel()):
        return objects
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InvalidInput(f"input {name}", found=error, wanted="rows of one length") from None


def _utf8(name: str, text: object) -> bytes:
    if not isinstance(text, str):
        raise InvalidInput(f"element of {name}", found=type(text).__name__, wanted="str")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"text of {name}", found="half a surrogate pair", wanted="whole characters") from None
