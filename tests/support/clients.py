"""Our four clients behind one blocking face, so that one test asks all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nlpdeploy.client import AsyncClient, Client

from .fronts import LoopThread

KINDS = ("http", "http-aio", "grpc", "grpc-aio")


class AioFace:
    """An :class:`AsyncClient` on an event loop in a thread."""

    def __init__(self, thread: LoopThread, client: AsyncClient) -> None:
        self.thread, self.client = thread, client

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: self.thread.run(getattr(self.client, name)(*args, **options))


@contextmanager
def client_of(kind: str, port: int, model: str = "tiny", **options: Any) -> Iterator[Any]:
    """A client of that kind, closed at the end."""
    scheme, _, aio = kind.partition("-")
    url = f"{scheme}://127.0.0.1:{port}"
    options = {"timeout": 10.0} | options
    if not aio:
        with Client(url, model, **options) as client:
            yield client
        return
    thread = LoopThread()
    try:
        face = AioFace(thread, AsyncClient(url, model, **options))
        yield face
        face.close()
    finally:
        thread.close()
