"""gRPC, blocking and on asyncio: one channel, whose connection all calls share."""

from __future__ import annotations

from typing import Any

import grpc

from ..wire.address import Address
from ..wire.status import ERROR_KIND, GrpcCode
from .deadline import Deadline
from .failures import grpc_failure, out_of_time
from .questions import Question, Reply
from .retry import Failed

_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Routers forget silent connections; pings keep them, and show within 10 s when one is dead. The server allows them;
    # one that doesn't says so, and gRPC then pings half as often.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # After a failure the channel itself waits before it connects again: a try of ours in between would only be told so.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # The address given and no detour, no retries but ours, and a connection of our own that closes with the client.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.use_local_subchannel_pool", 1),
)


class GrpcTransport:
    """A channel for any number of threads.

    Args:
        address: of the server.
    """

    def __init__(self, address: Address) -> None:
        self._server = str(address)
        self._channel = grpc.insecure_channel(address.authority, options=_OPTIONS)
        self._calls: dict[str, Any] = {}

    def send(self, question: Question[Any], deadline: Deadline) -> Reply:
        """Send once and wait for the answer; an interrupt on the way cancels the call.

        Raises:
            Failed: there is none, or it is an error.
        """
        call = _call(self._calls, self._channel, question.target)
        try:
            return Reply(call(question.body, timeout=_left(self._server, deadline)))
        except grpc.RpcError as error:
            raise _failed(self._server, error, deadline) from error

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        self._channel.close()


class AioGrpcTransport:
    """A channel for any number of tasks of one event loop.

    Args:
        address: of the server.
    """

    def __init__(self, address: Address) -> None:
        self._server, self._authority = str(address), address.authority
        self._channel: Any = None
        self._calls: dict[str, Any] = {}

    async def send(self, question: Question[Any], deadline: Deadline) -> Reply:
        """Send once and wait for the answer; a task that is cancelled here cancels the call.

        Raises:
            Failed: there is none, or it is an error.
        """
        if self._channel is None:  # not before there is a loop, to which it is bound
            self._channel = grpc.aio.insecure_channel(self._authority, options=_OPTIONS)
        call = _call(self._calls, self._channel, question.target)
        try:
            return Reply(await call(question.body, timeout=_left(self._server, deadline)))
        except grpc.RpcError as error:
            raise _failed(self._server, error, deadline) from error

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        if self._channel is not None:
            await self._channel.close()


def _call(calls: dict[str, Any], channel: Any, target: str) -> Any:
    """The channel's callable, made once; without (de)serialisers messages are bytes."""
    if target not in calls:
        calls[target] = channel.unary_unary(target)
    return calls[target]


def _left(server: str, deadline: Deadline) -> float:
    left = deadline.left()
    if left <= 0:
        raise Failed(out_of_time(server, deadline.timeout))
    return left


def _failed(server: str, error: Any, deadline: Deadline) -> Failed:
    code = int(error.code().value[0])
    trailers = {name: value for name, value in error.trailing_metadata() or () if isinstance(value, str)}
    if code == GrpcCode.DEADLINE_EXCEEDED and ERROR_KIND not in trailers:
        return Failed(out_of_time(server, deadline.timeout))
    return grpc_failure(server, code, error.details() or "", trailers)
