"""The gRPC front: an adapter from the protocol's calls to the data plane, with health and reflection beside it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from ..bundle.errors import InvalidInput, NotFound
from ..wire import codec_proto, oip
from ..wire.oip import Message
from ..wire.timing import SERVER_TIMING, server_timing
from .failures import explain
from .grpc_listener import GrpcListener
from .plane import DataPlane

Context = Any  # grpc.aio.ServicerContext; grpcio ships no types
Call = Callable[[Message, Context], Awaitable[Message]]

HEALTH = "grpc.health.v1.Health"
_HEALTH_POLL = 0.1  # seconds between looks at the data plane for those that watch
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcFront:
    """Open Inference Protocol v2 over gRPC; calls that the data plane doesn't serve are UNIMPLEMENTED.

    A caller's deadline goes to the data plane, and a caller that leaves cancels its work there. Stage times are in the
    trailing metadata ``server-timing``; errors carry ``error-kind`` and, where trying again helps, ``retry-after``.

    Args:
        plane: what answers.
        host: address to listen on.
        port: 0 for a free one.
        max_message_bytes: largest request and answer; above it RESOURCE_EXHAUSTED.
        max_connection_age: seconds after which a connection is told to close, so that clients find new servers.
        reuse_port: let several processes listen on the port; off, so that a port in use is noticed.
        limits: of headers, connections and slow clients, as the server's options.
    """

    def __init__(
        self,
        plane: DataPlane,
        host: str = "127.0.0.1",
        port: int = 8001,
        *,
        max_message_bytes: int = 32 * 1024 * 1024,
        max_connection_age: float | None = None,
        reuse_port: bool = False,
        limits: Sequence[tuple[str, int]] = (),
    ) -> None:
        self._plane = plane
        self._listener = GrpcListener(self._make_server, host, port)
        self._options: list[tuple[str, int]] = [
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.so_reuseport", int(reuse_port)),
            # A client that pings often is no reason to cut its calls.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_ping_strikes", 0),
            *limits,
        ]
        if max_connection_age is not None:
            self._options.append(("grpc.max_connection_age_ms", round(max_connection_age * 1000)))
        self._draining = False
        self._stopping = asyncio.Event()

    async def start(self) -> int:
        """Listen; returns the port.

        Raises:
            InvalidInput: the address can't be listened on.
        """
        return await self._listener.start()

    def _make_server(self) -> Any:
        server = grpc.aio.server(options=self._options)
        calls: dict[str, Call] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
        }
        served = {name: _unary(oip.METHODS[name].request, call) for name, call in calls.items()}
        health = {
            "Check": _unary(health_pb2.HealthCheckRequest, self._check),
            "Watch": grpc.unary_stream_rpc_method_handler(
                self._watch,
                request_deserializer=health_pb2.HealthCheckRequest.FromString,
                response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
            ),
        }
        for service, handlers in ((oip.SERVICE, served), (HEALTH, health)):
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        names = (oip.SERVICE, HEALTH, reflection.SERVICE_NAME)
        servicer = reflection.aio.ReflectionServicer(names, pool=_reflected_pool())
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
        return server

    async def drain(self) -> None:
        """Tell those that ask for health to go elsewhere; calls are still answered."""
        self._draining = True

    async def stop(self, grace: float) -> None:
        """Take no more calls, give those under way ``grace`` seconds, then cut them."""
        self._draining = True
        self._stopping.set()
        await self._listener.stop(grace)

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

    async def _model_infer(self, request: Message, context: Context) -> Message:
        remaining = context.time_remaining()
        deadline = None if remaining is None else time.monotonic() + remaining
        inference = await self._plane.infer(codec_proto.decode_request(request), deadline=deadline)
        context.set_trailing_metadata(((SERVER_TIMING, server_timing(inference.stages)),))
        return codec_proto.encode_response(inference.response)

    # -- health -------------------------------------------------------------------------------------------------------

    async def _check(self, request: Message, context: Context) -> Message:
        return health_pb2.HealthCheckResponse(status=self._serving(request.service))

    async def _watch(self, request: Message, context: Context) -> None:
        last = None
        while not self._stopping.is_set():
            try:
                status = self._serving(request.service)
            except NotFound:
                status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            if status != last:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                last = status
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _HEALTH_POLL)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is going down")

    def _serving(self, service: str) -> int:
        """Health of the whole (no name, or the protocol's service) or of a model."""
        whole = service in ("", oip.SERVICE)
        ready = self._plane.ready() if whole else self._plane.model_ready(service)
        states = health_pb2.HealthCheckResponse
        return int(states.SERVING if ready and not self._draining else states.NOT_SERVING)


def _unary(request_class: type[Message], call: Call) -> Any:
    """A method handler that parses the request itself, so that bytes which are no message are the caller's error."""

    async def handle(raw: bytes, context: Context) -> bytes:
        try:
            try:
                request = request_class.FromString(raw)
            except DecodeError:
                raise InvalidInput("request", found=f"no {request_class.DESCRIPTOR.full_name}") from None
            answer = await call(request, context)
            return bytes(answer.SerializeToString())
        except Exception as error:
            failure = explain(error)
            await context.abort(_CODES[failure.status.grpc], failure.detail, failure.headers())
            raise  # abort never returns

    return grpc.unary_unary_rpc_method_handler(handle)


def _reflected_pool() -> DescriptorPool:
    """A pool with the files of all services, which no one pool holds otherwise."""
    pool = DescriptorPool()
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        copy = FileDescriptorProto()
        file.CopyToProto(copy)
        pool.AddSerializedFile(copy.SerializeToString())
    pool.AddSerializedFile(oip.FILE.SerializeToString())
    return pool
