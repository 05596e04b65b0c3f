"""``ModelStreamInfer``: requests on one stream, each answered there when it is done, whatever became of the others."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from ..wire import codec_proto, oip
from ..wire.tensors import InferResponse, Parameter
from .failures import explain

Parse = Callable[[bytes], oip.Message]
Infer = Callable[[oip.Message, int], Awaitable[InferResponse]]
"""Answers a ``ModelInferRequest`` of so many bytes."""

MOST_OPEN = 64
"""Requests of one stream at work at a time; with so many it is read no further, and flow control stops the client."""

_METHOD = oip.METHODS["ModelStreamInfer"]


class InferStream:
    """One call of ``ModelStreamInfer``.

    Answers leave in the order in which they are done, each with its request's id. One that failed has the error's line
    in ``error_message``, and the id, the kind (``error_kind``) and the hints (``retry_after``, ``retry_after_ms``) in
    ``infer_response``; the stream lives on. It ends when the client has sent its last request and got its last answer.

    Args:
        context: the call, with raw messages.
        parse: a ``ModelInferRequest`` of its bytes; raises where they are none.
        infer: answers one request; cancelled when the client leaves.
        stopping: set when the server ends: no more is read, what is open is answered, and the status is UNAVAILABLE.
    """

    def __init__(self, context: Any, parse: Parse, infer: Infer, stopping: asyncio.Event) -> None:
        self._context, self._parse, self._infer, self._stopping = context, parse, infer, stopping
        self._room = asyncio.Semaphore(MOST_OPEN)
        self._writing = asyncio.Lock()
        self._open: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve it to its end. Cancelling this withdraws all its open work."""
        reading = asyncio.ensure_future(self._read())
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({reading, stopped}, return_when=asyncio.FIRST_COMPLETED)
            ended = reading.done()
            if ended:
                reading.result()
            while self._open:
                await asyncio.wait(self._open)
            if not ended:
                await self._context.abort(grpc.StatusCode.UNAVAILABLE, "the server is going down")
        finally:
            for task in (reading, stopped, *self._open):
                task.cancel()

    async def _read(self) -> None:
        while (raw := await self._context.read()) is not grpc.aio.EOF:
            if self._stopping.is_set():
                return  # unread, as all that would follow: the stream's end says so
            await self._room.acquire()
            task = asyncio.ensure_future(self._answer(raw))
            self._open.add(task)
            task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        self._room.release()
        if not task.cancelled():
            task.exception()  # one that could not be written: the client is gone, and the call's own task hears of it

    async def _answer(self, raw: bytes) -> None:
        message = oip.ModelInferRequest()
        try:
            message = self._parse(raw)
            response = await self._infer(message, len(raw))
            final = dataclasses.replace(response, parameters={**response.parameters, "triton_final_response": True})
            answer = _METHOD.response(infer_response=codec_proto.encode_response(final))
        except Exception as error:  # noqa: BLE001  (whatever it is, the client gets exactly one answer)
            answer = _failed(message, error)
        async with self._writing:  # one message at a time may be on its way
            await self._context.write(answer.SerializeToString())


def _failed(request: oip.Message, error: Exception) -> oip.Message:
    failure = explain(error)
    parameters: dict[str, Parameter] = {"triton_final_response": True}
    parameters |= {name.replace("-", "_"): value for name, value in failure.headers()}
    empty = InferResponse(request.model_name, request.model_version, request.id, (), parameters)
    return _METHOD.response(error_message=failure.detail, infer_response=codec_proto.encode_response(empty))
