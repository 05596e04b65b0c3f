"""Those that watch a server's health: one look at the data plane now and then for all of them together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from ..bundle.errors import NotFound

LOOK = 0.1
"""Seconds between looks."""

_STATES = health_pb2.HealthCheckResponse


class HealthWatch:
    """``grpc.health.v1.Health/Watch`` for any number of clients.

    Args:
        status: of a service, as the protocol's number.
        stopping: set when the server ends; :meth:`close` follows.
    """

    def __init__(self, status: Callable[[str], int], stopping: asyncio.Event) -> None:
        self._status, self._stopping = status, stopping
        self._watchers: Counter[str] = Counter()
        self._known: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    async def watch(self, service: str, context: Any) -> None:
        """Tell one client of a service's status and of each change, until it leaves or the server ends."""
        self._watchers[service] += 1
        if self._known.get(service) != (now := self._now(service)):
            self._known[service] = now
            self._wake()  # others may know it by an older look
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look())
        told = None
        try:
            while not self._stopping.is_set():
                changed, status = self._changed, self._known[service]
                if status != told:
                    await context.write(_STATES(status=status))
                    told = status
                else:
                    await changed.wait()
        finally:
            self._forget(service)
        if told != _STATES.NOT_SERVING:  # nobody is let go without a word
            await context.write(_STATES(status=_STATES.NOT_SERVING))
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is going down")

    def close(self) -> None:
        """Look no more; those that watch hear at once that the server ends."""
        if self._looking is not None:
            self._looking.cancel()
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _look(self) -> None:
        while self._watchers and not self._stopping.is_set():
            await asyncio.sleep(LOOK)
            now = {service: self._now(service) for service in self._watchers}
            if now != self._known:
                self._known = now
                self._wake()
        self._looking = None

    def _forget(self, service: str) -> None:
        self._watchers[service] -= 1
        if not self._watchers[service]:
            del self._watchers[service]
            self._known.pop(service, None)

    def _now(self, service: str) -> int:
        try:
            return self._status(service)
        except NotFound:
            return int(_STATES.SERVICE_UNKNOWN)
