"""Server reflection, by which grpcurl and its like learn the calls: one implementation under two service names.

``grpc.reflection.v1`` has the messages of ``v1alpha``, which is the only one that comes as a Python package.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from ..wire import oip

ALPHA = reflection.SERVICE_NAME
V1 = "grpc.reflection.v1.ServerReflection"


def reflection_handlers(services: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Method handlers by service name, which describe ``services`` and themselves."""
    servicer = reflection.aio.ReflectionServicer((*services, ALPHA, V1), pool=_SymbolPool(_pool()))

    async def info(raw_requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
        """Parses by itself, so that bytes which are no message are the caller's error."""

        async def requests() -> AsyncIterator[Any]:
            async for raw in raw_requests:
                try:
                    yield reflection_pb2.ServerReflectionRequest.FromString(raw)
                except DecodeError:
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is no ServerReflectionRequest")

        async for answer in servicer.ServerReflectionInfo(requests(), context):
            yield answer

    handler = grpc.stream_stream_rpc_method_handler(
        info,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return [(name, {"ServerReflectionInfo": handler}) for name in (ALPHA, V1)]


class _SymbolPool:
    """Also finds the file of ``package.service.method``, a symbol in reflection's protocol that protobuf's pool misses.

    Not a subclass: protobuf's C implementation makes its own class even when asked for a derived one.
    """

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        """As the pool's. Raises KeyError if nothing has that full name."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return self._pool.FindMethodByName(symbol).containing_service.file


def _pool() -> DescriptorPool:
    """A pool with the files of all services, which no one pool holds otherwise."""
    pool = DescriptorPool()
    alpha = reflection_pb2.DESCRIPTOR.serialized_pb
    v1 = FileDescriptorProto.FromString(alpha)
    v1.name, v1.package = "grpc/reflection/v1/reflection.proto", V1.rpartition(".")[0]
    old, new = f".{ALPHA.rpartition('.')[0]}.", f".{v1.package}."
    for message in v1.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(old, new)
    for method in v1.service[0].method:
        method.input_type, method.output_type = (
            name.replace(old, new) for name in (method.input_type, method.output_type)
        )
    for file in (health_pb2.DESCRIPTOR.serialized_pb, alpha, v1.SerializeToString(), oip.FILE.SerializeToString()):
        pool.AddSerializedFile(file)
    return pool
