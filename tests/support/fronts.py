"""Both fronts over a real data plane with the tiny engine, on an event loop in a thread, for clients that block."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from nlpdeploy.serve.grpc_front import GrpcFront
from nlpdeploy.serve.http_front import HttpFront
from nlpdeploy.serve.plane import DataPlane

from .engines import TinyEngine, tiny_predictor

Result = TypeVar("Result")


class LoopThread:
    """An event loop that runs in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="fronts")
        self._thread.start()

    def run(self, work: Awaitable[Result]) -> Result:
        """Run to the end there, wait here."""

        async def whole() -> Result:
            return await work

        return asyncio.run_coroutine_threadsafe(whole(), self.loop).result(30)

    def close(self) -> None:
        """Stop and join."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(30)
        self.loop.close()


class Fronts:
    """What a test sees of the server: ports, its plane, its engine."""

    grpc: GrpcFront
    http: HttpFront
    plane: DataPlane

    def __init__(self, thread: LoopThread, engine: TinyEngine) -> None:
        self.thread, self.engine = thread, engine
        self.grpc_port = self.http_port = 0

    async def start(self, folder: Path, options: dict[str, Any]) -> None:
        """Listen on free ports."""
        self.plane = DataPlane(options.pop("capacity", None))
        model, name = options.pop("model", None), options.pop("name", "tiny")
        self.plane.add(tiny_predictor(folder, self.engine, model, name=name))
        if options.pop("opened", True):
            self.plane.open()
        self.grpc, self.http = GrpcFront(self.plane, port=0, **options), HttpFront(self.plane, port=0, **options)
        self.grpc_port, self.http_port = await self.grpc.start(), await self.http.start()

    async def stop(self) -> None:
        """Drain and close."""
        await self.plane.drain(0.0)
        await asyncio.gather(self.grpc.stop(0.2), self.http.stop(0.2))
        assert self.plane.close()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        points = [point for family in self.plane.metrics.registry.collect() for point in family.samples]
        return sum(point.value for point in points if point.name == name and labels.items() <= point.labels.items())


@contextmanager
def serving_fronts(folder: Path, engine: TinyEngine | None = None, **options: Any) -> Iterator[Fronts]:
    """Both fronts; ``options`` go to them, but ``model``, ``name``, ``capacity`` and ``opened``."""
    thread = LoopThread()
    fronts = Fronts(thread, engine or TinyEngine())
    try:
        thread.run(fronts.start(folder, options))
        yield fronts
    finally:
        if fronts.engine.gate is not None:
            fronts.engine.gate.set()
        thread.run(fronts.stop())
        thread.close()


def until(happened: Callable[[], object], patience: float = 10.0) -> bool:
    """Wait until something has happened; False if it doesn't."""
    end = time.monotonic() + patience
    while not happened():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
