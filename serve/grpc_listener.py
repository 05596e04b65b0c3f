"""A gRPC server that listens again after the library's own accept loop has died. Knows no calls.

``grpc.aio`` decodes the address of every call in that loop: one that is no UTF-8 ends it (seen in grpcio 1.85), and so
one packet from anybody would end the service. Calls under way are finished by the old server meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from ..bundle.errors import InvalidInput

log = logging.getLogger(__name__)

_LOOK = 0.1  # seconds between looks at the accept loop
_LAST_CALLS = 60.0  # seconds for calls under way on a server whose accept loop has died


class GrpcListener:
    """One port, served by one ``grpc.aio`` server after another.

    Args:
        make: a new server with its handlers; a port and the start are added here.
        host: address to listen on.
        port: 0 for a free one.
    """

    def __init__(self, make: Callable[[], Any], host: str, port: int) -> None:
        self._make = make
        self._host, self._port = f"[{host}]" if ":" in host else host, port
        self._server: Any = None
        self._watch: asyncio.Task[None] | None = None
        self._dying: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """Listen; returns the port.

        Raises:
            InvalidInput: the address can't be listened on.
        """
        await self._listen()
        self._watch = asyncio.get_running_loop().create_task(self._listen_again())
        return self._port

    async def stop(self, grace: float) -> None:
        """Take no more calls, give those under way ``grace`` seconds, then cut them."""
        if self._watch is not None:
            self._watch.cancel()
        if self._server is not None:
            await self._server.stop(grace)
        for old in tuple(self._dying):
            old.cancel()  # what it waits for is answered or given up by now

    async def _listen(self) -> None:
        server = self._make()
        address = f"{self._host}:{self._port}"
        try:
            self._port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise InvalidInput(
                f"gRPC can't listen on {address}",
                found="an address in use or not of this machine",
                mend="choose another port with --grpc-port, 0 for any",
            ) from error
        await server.start()
        self._server = server

    async def _listen_again(self) -> None:
        """Wait for the accept loop to die; the library tells of it only to those that wait with a time limit."""
        while True:
            try:
                await self._server.wait_for_termination(_LOOK)
            except Exception as error:  # noqa: BLE001  (whatever ended the loop)
                log.warning("gRPC's accept loop ended by %s; listening again", type(error).__name__)
                self._bury(self._server)
                await self._retry()

    async def _retry(self) -> None:
        while True:
            try:
                return await self._listen()
            except InvalidInput:  # the old server hasn't let go of the port yet
                await asyncio.sleep(_LOOK)

    def _bury(self, server: Any) -> None:
        async def finish() -> None:
            with contextlib.suppress(Exception):  # the library raises once more what ended its loop
                await server.stop(_LAST_CALLS)

        task = asyncio.get_running_loop().create_task(finish())
        self._dying.add(task)
        task.add_done_callback(self._dying.discard)
