"""What each call of a client does, step by step, for the blocking client and the one on asyncio alike. Does no I/O.

A call is a generator: it yields what is to be sent or how long to pause, gets the reply or the failure, and returns the
result. The clients differ in how they carry out a step and in nothing else.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy.typing as npt

from ..bundle.errors import DeadlineExceeded, InvalidInput, Unavailable, Unsupported
from ..wire.address import Address
from ..wire.tensors import InferRequest, InferResponse, ModelMetadata, Parameter
from .answers import (
    Inference,
    Prediction,
    Texts,
    array_tensors,
    metadata_answers,
    output_names,
    prediction_outputs,
    read_inference,
    read_labels,
    read_predictions,
    request_parameters,
    text_tensors,
)
from .deadline import Deadline
from .questions import Question, Reply, questions_at
from .retry import PROBE, Failed, Retry, Tries

T = TypeVar("T")


@dataclass(frozen=True)
class Send:
    """Send once; answered with the reply, or with ``Failed`` thrown in."""

    question: Question[Any]
    deadline: Deadline


@dataclass(frozen=True)
class Pause:
    """Wait so many seconds; answered with nothing."""

    seconds: float


Call = Generator[Send | Pause, Reply | None, T]


class Calls:
    """The calls about one model.

    Args:
        address: of the server, which decides their form.
        model: the model's name.
        version: empty for the one that the server serves.
        timeout: seconds, for calls that don't name their own.
        retry: how often and how patiently to try again.

    Raises:
        InvalidInput: no positive timeout.
    """

    def __init__(self, address: Address, model: str, version: str, timeout: float, retry: Retry | None) -> None:
        self._model, self._version = model, version
        self._timeout = Deadline(timeout).timeout
        self._retry = retry or Retry()
        self._questions = questions_at(address, model, version)
        self._metadata: ModelMetadata | None = None
        self._told: dict[str, ModelMetadata] = {}  # by digest of the bundle
        self.closed = False

    def predict(
        self,
        text: Texts,
        text_pair: Texts | None,
        *,
        scores: bool,
        timeout: float | None,
        priority: int,
        request_id: str,
    ) -> Call[Prediction | list[Prediction]]:
        """A prediction for one text, a list of them for a list."""
        deadline = self._deadline(timeout)
        tensors, parameters = text_tensors(text, text_pair), request_parameters(priority)
        predictions: list[Prediction] = []
        rows = len(tensors[0].data)
        if rows:
            metadata = self._metadata or (yield from self._ask_metadata(deadline))
            outputs = prediction_outputs(metadata, scores=scores)
            request = InferRequest(self._model, tensors, self._version, request_id, outputs, parameters)
            response = yield from self._ask(self._questions.infer(request, plain=True), deadline)
            labels = (yield from self._ask_labels(response, deadline)) if scores else ()
            predictions = read_predictions(response, rows, labels)
        return predictions[0] if isinstance(text, str) else predictions

    def infer(
        self,
        inputs: Mapping[str, npt.ArrayLike],
        outputs: Sequence[str],
        *,
        timeout: float | None,
        priority: int,
        request_id: str,
    ) -> Call[Inference]:
        """The outputs for the inputs."""
        deadline = self._deadline(timeout)
        tensors, names = array_tensors(inputs), output_names(outputs)
        parameters: Mapping[str, Parameter] = request_parameters(priority)
        request = InferRequest(self._model, tensors, self._version, request_id, names, parameters)
        return read_inference((yield from self._ask(self._questions.infer(request, plain=False), deadline)))

    def ready(self, timeout: float | None) -> Call[bool]:
        """Whether the model answers."""
        try:
            return (yield from self._ask(self._questions.ready(), self._deadline(timeout), PROBE))
        except (Unavailable, DeadlineExceeded):
            return False

    def metadata(self, timeout: float | None) -> Call[ModelMetadata]:
        """What the model takes and gives."""
        return (yield from self._ask_metadata(self._deadline(timeout)))

    def _deadline(self, timeout: float | None) -> Deadline:
        if self.closed:
            raise InvalidInput("this client", found="closed", wanted="an open one")
        return Deadline(self._timeout if timeout is None else timeout)

    def _ask_metadata(self, deadline: Deadline) -> Call[ModelMetadata]:
        metadata = yield from self._ask(self._questions.metadata(), deadline)
        more = self._questions.properties()
        if more is not None:
            with contextlib.suppress(Unsupported):  # by a server of the protocol's core alone
                metadata = replace(metadata, properties=(yield from self._ask(more, deadline)))
        self._metadata = self._told[metadata.properties.get("bundle_digest", "")] = metadata
        return metadata

    def _ask_labels(self, response: InferResponse, deadline: Deadline) -> Call[tuple[str, ...]]:
        """Names of the scores, by the bundle that answered: another version may serve by now, or on another replica."""
        known = [metadata for metadata in self._told.values() if metadata_answers(metadata, response)]
        metadata = known[0] if known else (yield from self._ask_metadata(deadline))
        return read_labels(metadata, response)

    def _ask(self, question: Question[T], deadline: Deadline, retry: Retry | None = None) -> Call[T]:
        tries = Tries(retry or self._retry)
        while True:
            try:
                reply = yield Send(question, deadline)
            except Failed as failed:
                pause = tries.pause(failed, deadline.left(), random.random())  # noqa: S311
                if pause is None:
                    raise failed.error from None
            else:
                assert reply is not None  # noqa: S101
                return question.read(reply)
            yield Pause(pause)
