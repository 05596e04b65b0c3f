"""The client on asyncio."""

from __future__ import annotations

import asyncio
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

    async def send(self, question: Question[Any], deadline: Deadline) -> Reply:
        """Send once and wait for the answer.

        Raises:
            Failed: there is none, or it is an error.
        """

    async def close(self) -> None:
        """Close the connections."""


class AsyncClient:
    """Asks one model of one server, as :class:`~nlpdeploy.client.Client` does, for the tasks of one event loop.

    Cancelling a task that waits for an answer withdraws the call from the server.

    Arguments and errors are those of :class:`~nlpdeploy.client.Client`.
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
            from .grpc_transport import AioGrpcTransport  # loads grpcio, which HTTP does without

            self._transport = AioGrpcTransport(address)
        else:
            from .http_aio import HttpTransport

            self._transport = HttpTransport(address, connections)

    @overload
    async def predict(
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
    async def predict(
        self,
        text: list[str] | tuple[str, ...],
        text_pair: list[str] | tuple[str, ...] | None = None,
        *,
        scores: bool = False,
        timeout: float | None = None,
        priority: int = 0,
        request_id: str = "",
    ) -> list[Prediction]: ...

    async def predict(
        self,
        text: Texts,
        text_pair: Texts | None = None,
        *,
        scores: bool = False,
        timeout: float | None = None,
        priority: int = 0,
        request_id: str = "",
    ) -> Prediction | list[Prediction]:
        """Answer one text, or each of a list, as :meth:`nlpdeploy.client.Client.predict` does."""
        call = self._calls.predict(
            text, text_pair, scores=scores, timeout=timeout, priority=priority, request_id=request_id
        )
        return await self._run(call)

    async def infer(
        self,
        inputs: Mapping[str, npt.ArrayLike],
        outputs: Sequence[str] = (),
        *,
        timeout: float | None = None,
        priority: int = 0,
        request_id: str = "",
    ) -> Inference:
        """Ask by tensors, as :meth:`nlpdeploy.client.Client.infer` does."""
        call = self._calls.infer(inputs, outputs, timeout=timeout, priority=priority, request_id=request_id)
        return await self._run(call)

    async def ready(self, *, timeout: float | None = None) -> bool:
        """Whether the model answers; False where no server does, or not in time.

        Raises:
            NotFound: the server has no such model.
        """
        return await self._run(self._calls.ready(timeout))

    async def metadata(self, *, timeout: float | None = None) -> ModelMetadata:
        """What the model takes and gives, as :meth:`nlpdeploy.client.Client.metadata` says."""
        return await self._run(self._calls.metadata(timeout))

    async def close(self) -> None:
        """Close the connections; no calls can be made any more."""
        self._calls.closed = True
        await self._transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, call: Call[T]) -> T:
        try:
            step = next(call)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = next(call)
                    continue
                try:
                    reply = await self._transport.send(step.question, step.deadline)
                except Failed as failed:
                    step = call.throw(failed)
                else:
                    step = call.send(reply)
        except StopIteration as done:
            result: T = done.value
            return result
