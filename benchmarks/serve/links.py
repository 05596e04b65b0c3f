"""Connections of the load client, over HTTP and gRPC alike, and the requests that go over them."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import cache
from pathlib import Path
from typing import Any

from ..http_clients import AsyncHttp
from .requests import Ask

Send = Callable[[Ask], Coroutine[Any, Any, bytes]]
"""Asks once and gives the answer's bytes; raises whatever went wrong."""

REQUEST_SECONDS = 30.0


class Refused(Exception):
    """An answer with another status than OK."""


@contextlib.asynccontextmanager
async def http_link(host: str, port: int) -> AsyncIterator[Send]:
    """One connection of one client."""
    connection = await AsyncHttp.connect(host, port)

    async def send(ask: Ask) -> bytes:
        answer = await connection.ask(ask.message)
        if connection.surplus:
            raise ConnectionError(f"{connection.surplus} bytes that nobody asked for")
        if answer.status != 200:
            raise Refused(f"status {answer.status}")
        return answer.body

    try:
        yield send
    finally:
        connection.close()


@contextlib.asynccontextmanager
async def grpc_link(host: str, port: int) -> AsyncIterator[Send]:
    """One connection of its own, for any number of requests at a time."""
    import grpc

    from nlpdeploy.wire import oip

    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
    async with grpc.aio.insecure_channel(f"{host}:{port}", options=options) as channel:
        infer = channel.unary_unary(oip.METHODS["ModelInfer"].path)

        async def send(ask: Ask) -> bytes:
            answer: bytes = await infer(ask.message, timeout=REQUEST_SECONDS)
            return answer

        yield send


LINKS = {"http": http_link, "grpc": grpc_link}


@cache
def read_asks(path: str) -> list[Ask]:
    """The requests in a file; written by this machine's parent process a moment ago."""
    found: list[Ask] = pickle.loads(Path(path).read_bytes())
    return found
