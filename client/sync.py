"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, TypeVar, overload

import numpy.typing as npt

from ..wire.address import parse_address
from ..wire.tensors import ModelMetadata
from .answers import Inference, Prediction, Texts
from .calls import Call, Calls, Pause
from .deadline import Deadline
from .questions import Question, Reply
from .retry import Failed, Retry

T = TypeVar("T")


class Transport(Protocol):
    """What the client has under it."""

    def send(self, question: Question[Any], deadline: Deadline) -> Reply:
        """Send once and wait for the answer.

        Raises:
            Failed: there is none, or it is an error.
        """

    def close(self) -> None:
        """Close the connections."""


class Client:
    """Asks one model of one server. Any number of threads may share it; after a fork make a new one.

    Each call has a deadline, which all its tries share and which the server is told, so that nothing runs for a caller
    who has given up. What is tried again, and why that is safe, stands in :mod:`nlpdeploy.client.retry`. Leaving a
    call, by Ctrl-C or another exception, withdraws it from the server.

    Args:
        url: ``http://host:port`` or ``grpc://host:port``; connected when first used.
        model: the model's name.
        version: a version; by default the one that the server serves.
        timeout: seconds for a call that doesn't name its own.
        retry: how often and how patiently to try again.
        connections: over HTTP, most connections at once; calls above that wait for one. gRPC has one for all.

    Raises:
        InvalidInput: another form of address, no positive timeout, or no connections.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        version: str = "",
        timeout: float = 1.0,
        retry: Retry | None = None,
        connections: int = 64,
    ) -> None:
        address = parse_address(url)
        self._calls = Calls(address, model, version, timeout, retry)
        self._transport: Transport
        if address.scheme == "grpc":
            from .grpc_transport import GrpcTransport  # loads grpcio, which HTTP does without

            self._transport = GrpcTransport(address)
        else:
            from .http_sync import HttpTransport

            self._transport = HttpTransport(address, connections)

    @overload
    def predict(
        self,
        text: str,
        text_pair: str | None = None,
        *,
        scores: bool = False,
        timeout: float | None = None,
        priority: int = 0,
        request_id: str = "",
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        text: list[str] | tuple[str, ...],
        text_pair: list[str] | tuple[str, ...] | None = None,
        *,
        scores: bool = False,
        timeout: float | None = None,
        priority: int = 0,
        request_id: str = "",
    ) -> list[Prediction]: ...

    def predict(
        self,
        text: Texts,
        text_pair: Texts | None = None,
        *,
        scores: bool = False,
        timeout: float | None = None,
        priority: int = 0,
        request_id: str = "",
    ) -> Prediction | list[Prediction]:
        """Answer one text, or each of a list; an empty list is answered without asking.

        The first call also asks for the model's metadata, to know its outputs.

        Args:
            text: one text, or a list of them.
            text_pair: for models of pairs: the second text, or as many of them.
            scores: bring the scores of all labels too.
            timeout: seconds; by default the client's.
            priority: 1 goes before others; 0 and 2 are normal.
            request_id: goes with the request.

        Returns:
            One prediction, or one for each text of the list, in its order.

        Raises:
            InvalidInput, NotFound, Unsupported, TooLarge: what was asked; the caller can mend it.
            Overloaded, Unavailable: the server can't answer now; the tries are used up, or the time left is too short.
            DeadlineExceeded: the time is over.
            EngineFailed: the server failed, or its answer is unusable.
        """
        call = self._calls.predict(
            text, text_pair, scores=scores, timeout=timeout, priority=priority, request_id=request_id
        )
        return self._run(call)

    def infer(
        self,
        inputs: Mapping[str, npt.ArrayLike],
        outputs: Sequence[str] = (),
        *,
        timeout: float | None = None,
        priority: int = 0,
        request_id: str = "",
    ) -> Inference:
        """Ask by tensors: ``{"text": ["…"]}``, or ``{"input_ids": …}`` INT64 [n, length].

        Args:
            inputs: arrays, or what numpy makes arrays of, by name.
            outputs: names of those wanted; by default the model's default ones.
            timeout: seconds; by default the client's.
            priority: 1 goes before others; 0 and 2 are normal.
            request_id: comes back with the answer.

        Raises:
            InvalidInput and the others: as :meth:`predict`.
        """
        call = self._calls.infer(inputs, outputs, timeout=timeout, priority=priority, request_id=request_id)
        return self._run(call)

    def ready(self, *, timeout: float | None = None) -> bool:
        """Whether the model answers; False where no server does, or not in time.

        Raises:
            NotFound: the server has no such model.
        """
        return self._run(self._calls.ready(timeout))

    def metadata(self, *, timeout: float | None = None) -> ModelMetadata:
        """What the model takes and gives, and its properties: task, labels, engine, digest of the bundle.

        Raises:
            NotFound: the server has no such model.
            Unavailable, DeadlineExceeded: as :meth:`predict`.
        """
        return self._run(self._calls.metadata(timeout))

    def close(self) -> None:
        """Close the connections; no calls can be made any more."""
        self._calls.closed = True
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, call: Call[T]) -> T:
        try:
            step = next(call)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = next(call)
                    continue
                try:
                    reply = self._transport.send(step.question, step.deadline)
                except Failed as failed:
                    step = call.throw(failed)
                else:
                    step = call.send(reply)
        except StopIteration as done:
            result: T = done.value
            return result
