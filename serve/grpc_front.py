"""The gRPC front: an adapter from the protocol's calls to the data plane, with health and reflection beside it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from ..bundle.errors import InvalidInput
from ..wire import codec_descriptions, codec_proto, oip
from ..wire.json_large import LARGE
from ..wire.oip import Message
from ..wire.tensors import InferRequest, InferResponse
from ..wire.timing import SERVER_TIMING, server_timing
from .failures import explain
from .grpc_health import HealthWatch
from .grpc_limits import GrpcLimits
from .grpc_server import GrpcServer
from .grpc_stream import InferStream
from .metrics import outcome_of
from .plane import DataPlane
from .reflection import reflection_handlers
from .request_log import RequestLog, note_model

Context = Any  # grpc.aio.ServicerContext; grpcio ships no types
Call = Callable[[Message, Context], Awaitable[Message]]

HEALTH = "grpc.health.v1.Health"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcFront:
    """Open Inference Protocol v2 over gRPC, with health and reflection; other calls are UNIMPLEMENTED.

    A caller's deadline goes to the data plane, and a caller that leaves cancels its work there. Stage times are in the
    trailing metadata ``server-timing``; errors carry ``error-kind`` and, where trying again helps, ``retry-after``.

    Args:
        plane: what answers.
        host: address to listen on.
        port: 0 for a free one.
        max_message_bytes: largest request and answer; above it RESOURCE_EXHAUSTED.
        reuse_port: let several processes listen on the port; off, so that a port in use is noticed.
        limits: the other limits of the connections.
        requests: the log that each request for inference gets a line in.
    """

    def __init__(
        self,
        plane: DataPlane,
        host: str = "127.0.0.1",
        port: int = 8001,
        *,
        max_message_bytes: int = 32 * 1024 * 1024,
        reuse_port: bool = False,
        limits: GrpcLimits | None = None,
        requests: RequestLog | None = None,
    ) -> None:
        self._plane = plane
        self._requests = requests
        limits = limits or GrpcLimits(message_bytes=max_message_bytes)
        self._server = GrpcServer(host, port, limits, reuse_port=reuse_port)
        self._draining = False
        self._stopping = asyncio.Event()
        self._health = HealthWatch(self._serving, self._stopping)
        self._add_methods()

    async def start(self) -> int:
        """Listen; returns the port.

        Raises:
            InvalidInput: the address can't be listened on.
        """
        return await self._server.start()

    def _add_methods(self) -> None:
        calls: dict[str, Call] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
        }
        served = {name: _unary(oip.METHODS[name].request, call) for name, call in calls.items()}
        infer = self._requests.grpc(self._model_infer) if self._requests else self._model_infer
        served["ModelInfer"] = _unary_raw(infer)
        served["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._model_stream_infer)
        health = {
            "Check": _unary(health_pb2.HealthCheckRequest, self._check),
            "Watch": grpc.unary_stream_rpc_method_handler(
                self._watch,
                request_deserializer=health_pb2.HealthCheckRequest.FromString,
                response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
            ),
        }
        described = reflection_handlers((oip.SERVICE, HEALTH))
        for service, handlers in ((oip.SERVICE, served), (HEALTH, health), *described):
            self._server.add(service, handlers)

    async def drain(self) -> None:
        """Tell those that ask for health to go elsewhere; calls are still answered."""
        self._draining = True

    async def stop(self, grace: float) -> None:
        """Take no more calls, give those under way ``grace`` seconds, then cut them."""
        self._draining = True
        self._stopping.set()
        self._health.close()
        await self._server.stop(grace)

    # -- the protocol's calls -----------------------------------------------------------------------------------------

    async def _server_live(self, request: Message, context: Context) -> Message:
        return oip.METHODS["ServerLive"].response(live=self._plane.live())

    async def _server_ready(self, request: Message, context: Context) -> Message:
        return oip.METHODS["ServerReady"].response(ready=self._plane.ready())

    async def _model_ready(self, request: Message, context: Context) -> Message:
        ready = self._plane.model_ready(request.name, request.version)
        return oip.METHODS["ModelReady"].response(ready=ready)

    async def _server_metadata(self, request: Message, context: Context) -> Message:
        return codec_proto.encode_server_metadata(self._plane.server_metadata())

    async def _model_metadata(self, request: Message, context: Context) -> Message:
        return codec_proto.encode_model_metadata(self._plane.model_metadata(request.name, request.version))

    async def _model_infer(self, raw: bytes, context: Context) -> Message:
        deadline, size = _deadline(context), len(raw)
        message = await self._plane.aside.run(size, lambda: self._parse(raw))
        request = await self._read(message, size, deadline)
        inference = await self._plane.infer(request, deadline=deadline, size=size)
        context.set_trailing_metadata(((SERVER_TIMING, server_timing(inference.stages)),))
        return codec_proto.encode_response(inference.response)

    async def _model_stream_infer(self, requests: object, context: Context) -> None:
        deadline = _deadline(context)  # of the whole stream

        async def infer(message: Message, size: int) -> InferResponse:
            request = await self._read(message, size, deadline)
            return (await self._plane.infer(request, deadline=deadline, size=size)).response

        logged = self._requests.grpc(infer) if self._requests else infer
        await InferStream(context, self._parse, logged, self._stopping).run()

    def _parse(self, raw: bytes) -> Message:
        """The message; bytes that are none name no model, and are counted so."""
        try:
            return codec_proto.parse_message(oip.ModelInferRequest, raw)
        except InvalidInput as error:
            self._plane.metrics.unrouted.labels(outcome_of(error)).inc()
            raise

    async def _read(self, message: Message, size: int, deadline: float | None) -> InferRequest:
        """The request of a message, unless it is refused unread."""
        if size <= LARGE:
            self._turn_away(message, size, deadline)
        with self._plane.reading(message.model_name, message.model_version):
            return await self._plane.aside.run(size, lambda: codec_proto.decode_request(message))

    def _turn_away(self, message: Message, size: int, deadline: float | None) -> None:
        """Refuse, before its tensors are read, a request that would be refused whatever stands in them.

        Raises:
            Overloaded: it is one.
        """
        if not may_be_judged(message):
            return
        turned = self._plane.turned_away("infer", message.model_name, message.model_version, size, deadline)
        if turned is not None:
            error, served = turned
            note_model(served.name, served.version, message.id)
            raise error

    async def _model_config(self, request: Message, context: Context) -> Message:
        config = self._plane.model_config(request.name, request.version)
        return codec_descriptions.model_config_message(config)

    async def _model_statistics(self, request: Message, context: Context) -> Message:
        return codec_descriptions.statistics_message(self._plane.statistics(request.name, request.version))

    async def _repository_index(self, request: Message, context: Context) -> Message:
        return codec_descriptions.index_message(self._plane.index(ready=request.ready))

    # -- health -------------------------------------------------------------------------------------------------------

    async def _check(self, request: Message, context: Context) -> Message:
        return health_pb2.HealthCheckResponse(status=self._serving(request.service))

    async def _watch(self, request: Message, context: Context) -> None:
        await self._health.watch(request.service, context)

    def _serving(self, service: str) -> int:
        """Health of the whole (no name, or the protocol's service) or of a model."""
        whole = service in ("", oip.SERVICE)
        ready = self._plane.ready() if whole else self._plane.model_ready(service)
        states = health_pb2.HealthCheckResponse
        return int(states.SERVING if ready and not self._draining else states.NOT_SERVING)


def _unary(request_class: type[Message], call: Call) -> Any:
    async def parsed(raw: bytes, context: Context) -> Message:
        return await call(codec_proto.parse_message(request_class, raw), context)

    return _unary_raw(parsed)


def _unary_raw(call: Callable[[bytes, Context], Awaitable[Message]]) -> Any:
    """A method handler of raw bytes, so that those which are no message are the caller's error."""

    async def handle(raw: bytes, context: Context) -> bytes:
        try:
            answer = await call(raw, context)
            return bytes(answer.SerializeToString())
        except Exception as error:
            failure = explain(error)
            await context.abort(_CODES[failure.status.grpc], failure.detail, failure.headers())
            raise  # abort never returns

    return grpc.unary_unary_rpc_method_handler(handle)


def _deadline(context: Context) -> float | None:
    """When the caller's time is over, in seconds of ``time.monotonic``; None where it named none."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def may_be_judged(message: Message) -> bool:
    """Whether a ``ModelInferRequest`` has a row, if it is sound, and names neither priority nor deadline of its own."""
    parameters, inputs = message.parameters, message.inputs
    if "priority" in parameters or "timeout" in parameters:
        return False
    return bool(inputs) and all(all(tensor.shape) for tensor in inputs)
