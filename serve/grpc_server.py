"""A gRPC server on the event loop itself: it listens, drains, and ends what is past its time. Knows no calls.

``grpc.aio`` has threads of its own between the sockets and the loop, and each call goes to and fro between them; here
a call is some frames parsed and some written where the data plane is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import grpc

from .grpc_call import Call
from .grpc_limits import ConnectionState, GrpcLimits
from .h2_connection import H2Connection
from .listening import cannot_listen

_TICK = 1.0  # seconds, at most, between looks at what is past its time


class GrpcServer:
    """Listens, and holds its connections.

    Args:
        host: address to listen on.
        port: 0 for a free one.
        limits: of each connection and of all.
        reuse_port: let several processes listen on the port; off, so that a port in use is noticed.
    """

    def __init__(self, host: str, port: int, limits: GrpcLimits, *, reuse_port: bool = False) -> None:
        self._host, self._port, self._reuse_port = host, port, reuse_port
        self._state = ConnectionState(limits)
        self._methods: dict[bytes, Any] = {}
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    def add(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Serve a service's methods, whose handlers ``grpc`` has made, by name."""
        for name, handler in handlers.items():
            self._methods[f"/{service}/{name}".encode()] = handler

    async def start(self) -> int:
        """Listen; returns the port.

        Raises:
            InvalidInput: the address can't be listened on.
        """
        limits, methods = self._state.limits, self._methods

        def connect() -> H2Connection:
            return H2Connection(
                self._state, lambda connection, out: Call(connection, out, methods, limits.message_bytes)
            )

        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                connect, self._host, self._port, backlog=1024, reuse_port=self._reuse_port or None
            )
        except OSError as error:
            raise cannot_listen("gRPC", self._host, self._port, "--grpc-port", error) from error
        self._sweeper = asyncio.ensure_future(self._sweep())
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self, grace: float) -> None:
        """Take no more calls, give those under way ``grace`` seconds, then cut them."""
        if self._server is None or self._sweeper is None:
            return
        self._server.close()
        connections = self._state.connections
        for connection in tuple(connections):
            connection.go_away()
        end = time.monotonic() + grace
        while connections and time.monotonic() < end:
            await asyncio.sleep(0.005)
        for connection in tuple(connections):
            for call in connection.calls():
                call.cut(grpc.StatusCode.UNAVAILABLE, "the server is going down")
        for _ in range(3):  # their tasks end, their statuses leave, their connections close
            await asyncio.sleep(0)
        for connection in tuple(connections):
            connection.abort()
        self._sweeper.cancel()
        while connections:
            await asyncio.sleep(0)

    async def _sweep(self) -> None:
        """One sweep for all: a timer for each step of each connection would cost more."""
        limits = self._state.limits
        tick = min(_TICK, min(limits.idle, limits.slow_client, limits.age) / 4)
        while True:
            await asyncio.sleep(tick)
            now = time.monotonic()
            for connection in tuple(self._state.connections):
                connection.look(now)
