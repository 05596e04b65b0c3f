"""Outputs of a request -> the JSON that answers it, in the form in which it asked. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bundle import errors
from ..bundle.errors import NlpdeployError
from ..bundle.manifest import Manifest
from ..bundle.specs import Layout, ModelSpec
from ..runtime.tasks import Floats, decode
from ..runtime.text import Row
from .bodies import Form, Question

CONTENT_TYPE = "application/json"
INTERNAL = 500

STATUS: dict[type[NlpdeployError], int] = {
    errors.InvalidInput: 400,
    errors.NotFound: 404,
    errors.Unsupported: 501,
    errors.CorruptBundle: INTERNAL,
    errors.StoreFailed: INTERNAL,
    errors.EngineUnavailable: INTERNAL,
    errors.EngineFailed: INTERNAL,
    errors.ParityFailed: INTERNAL,
    errors.TooLarge: 413,
    errors.Overloaded: 429,
    errors.DeadlineExceeded: 504,
    errors.Cancelled: 499,
    errors.Unavailable: 503,
}
"""The HTTP status of an error, by its kind: those of the server, whose table this room must not know."""


def status_of(error: NlpdeployError) -> int:
    """The HTTP status of an error, by its kind or the kind it derives from."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), INTERNAL)


def answer(
    question: Question, logits: Floats, rows: Sequence[Row], model: ModelSpec, *, name: str, version: str,
    parameters: Mapping[str, Any],
) -> bytes:  # fmt: skip
    """The answer to one request.

    Args:
        question: what it asked; its outputs must be known.
        logits: [texts, classes], finite.
        rows: the tokenised texts, in order.
        model: task and labels.
        name: the model's name, for the protocol.
        version: the model's version, for the protocol.
        parameters: what a protocol answer says of itself.
    """
    names = question.outputs or tuple(spec.name for spec in model.default_outputs())
    arrays = {
        **decode(logits, model),
        "tokens": np.array([len(row) for row in rows], dtype=np.int32),
        "truncated": np.array([row.truncated for row in rows], dtype=np.bool_),
    }
    if question.form is Form.PROTOCOL:
        cut = sum(row.truncated for row in rows)
        said = {**parameters, **({"truncated_rows": cut} if cut else {})}
        specs = {spec.name: spec.dtype for spec in model.outputs()}
        outputs = [_tensor(output, specs[output], arrays[output]) for output in names]
        return dump(protocol_answer(question.id, name, version, outputs, said))
    columns = [arrays[output].tolist() for output in names]
    predictions = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    return dump(predictions[0] if question.form is Form.ONE else {"predictions": predictions})


DESCRIPTION = 1
"""Form of a description, by which a reader knows one; of a larger number it may not know all."""


def description(manifest: Manifest, engine: str, *, version: str, workers: int, batch_size: int) -> bytes:
    """What a worker serves: for the management API's ``customized=true``, and for a front that stands before it.

    Args:
        manifest: of the bundle in the archive.
        engine: id of the engine that answers.
        version: the model's, in TorchServe.
        workers: that the model was packed for.
        batch_size: most requests of one call.
    """
    model = manifest.model
    entry = next((entry for entry in manifest.engines if entry.id == engine), None)
    runtime, _, precision = engine.partition("-")  # of one that is in no bundle, as the PyTorch reference
    plain = {
        "nlpdeploy": DESCRIPTION,
        "version": version,
        "bundle_digest": manifest.derived_from or manifest.digest,
        "engine": engine,
        "runtime": entry.runtime if entry else runtime,
        "precision": entry.precision if entry else precision,
        "layout": str(entry.layout if entry else Layout.PADDED),
        "task": str(model.task),
        "activation": str(model.activation),
        "activation_source": model.activation_source,
        "labels": list(model.labels),
        "pair": model.pair,
        "max_length": model.max_length,
        "inputs": [spec.name for spec in model.text_inputs()],
        "outputs": [spec.name for spec in model.outputs()],
        "workers": workers,
        "batch_size": batch_size,
    }
    return dump(plain)


def refusal(error: NlpdeployError) -> bytes:
    """What a client is told of an error that concerns its request alone."""
    return dump({"error": error.line(), "code": status_of(error), "type": type(error).__name__})


def refusal_by_protocol(error: NlpdeployError, question_id: str, name: str, version: str) -> bytes:
    """An error in the form of an answer, for the frontend's gRPC, which has no other: one BYTES tensor ``error``."""
    output = {"name": "error", "datatype": "BYTES", "shape": [1], "data": [error.line()]}
    return dump(protocol_answer(question_id, name, version, [output], {"code": status_of(error)}))


def protocol_answer(
    question_id: str, name: str, version: str, outputs: list[dict[str, Any]], parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """An inference response of the Open Inference Protocol as JSON's own types."""
    return {
        "model_name": name,
        "model_version": version,
        "id": question_id,
        "parameters": dict(parameters),
        "outputs": outputs,
    }


def dump(value: Any) -> bytes:
    """JSON in UTF-8 without spaces; letters beyond ASCII as they are.

    Raises:
        ValueError: a NaN or an infinity, for which JSON has no word.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "backslashreplace")  # for lone surrogates that is JSON's own way too


def _tensor(name: str, dtype: str, values: npt.NDArray[np.generic]) -> dict[str, Any]:
    return {"name": name, "datatype": dtype, "shape": list(values.shape), "data": values.ravel().tolist()}
