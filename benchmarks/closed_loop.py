"""Clients in a process of their own, each of which asks again as soon as it is answered.

``python -m benchmarks.closed_loop`` reads a pickle of questions from the path that it is given, then one order a line
from standard input, and writes one result a line; :class:`ClientProcess` is the other end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import pickle
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .http_clients import AsyncHttp
from .messages import Question

Ask = Callable[[Question], Awaitable[bool]]
"""Asks once; whether the answer was right."""


@dataclass
class LoopResult:
    """What clients saw in one slice of time.

    Attributes:
        seconds: length of the slice.
        latencies: seconds of each request answered within it.
        errors: requests without an answer of status OK, those after the slice included.
        wrong: answers with another label than the engine's own.
        cpu_seconds: processor time that the clients took.
    """

    seconds: float
    latencies: list[float] = field(default_factory=list)
    errors: int = 0
    wrong: int = 0
    cpu_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds


class ClientProcess:
    """Orders slices of load from a child process."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child

    def load(self, transport: str, host: str, port: int, *, clients: int, seconds: float) -> LoopResult:
        """Run ``clients`` clients over ``http`` or ``grpc`` for so many seconds, each on a connection of its own."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        order = {"transport": transport, "host": host, "port": port, "clients": clients, "seconds": seconds}
        self._child.stdin.write(json.dumps(order) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError("the clients' process ended")
        return LoopResult(**json.loads(line))


@contextlib.contextmanager
def client_process(asked: Sequence[Question], folder: Path) -> Iterator[ClientProcess]:
    """Start the clients' process, end it on the way out."""
    path = folder / "questions.pickle"
    path.write_bytes(pickle.dumps(list(asked)))
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.closed_loop", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
        start_new_session=True,
    )
    try:
        yield ClientProcess(child)
    finally:
        child.kill()
        child.communicate()
        path.unlink()


async def _serve_orders(asked: Sequence[Question]) -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order: dict[str, Any] = json.loads(line)
        result = await _slice(asked, **order)
        sys.stdout.write(json.dumps(asdict(result)) + "\n")
        sys.stdout.flush()


async def _slice(
    asked: Sequence[Question], transport: str, host: str, port: int, clients: int, seconds: float
) -> LoopResult:
    opened = _http if transport == "http" else _grpc
    async with contextlib.AsyncExitStack() as stack:
        asks = [await stack.enter_async_context(opened(host, port)) for _ in range(clients)]
        # One request each before the clock runs: connections are made, the server's batches are full.
        await asyncio.gather(*(ask(asked[0]) for ask in asks))
        result = LoopResult(seconds)
        before = resource.getrusage(resource.RUSAGE_SELF)
        end = time.perf_counter() + seconds
        await asyncio.gather(*(_client(ask, asked, k, clients, end, result) for k, ask in enumerate(asks)))
        after = resource.getrusage(resource.RUSAGE_SELF)
    result.cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return result


async def _client(ask: Ask, asked: Sequence[Question], first: int, step: int, end: float, result: LoopResult) -> None:
    index = first
    while (started := time.perf_counter()) < end:
        try:
            right = await ask(asked[index % len(asked)])
        except Exception:  # noqa: BLE001  (whatever a client can meet is one error in the books)
            result.errors += 1
            await asyncio.sleep(0.01)
            continue
        ended = time.perf_counter()
        if ended <= end:
            result.latencies.append(ended - started)
        result.wrong += not right
        index += step


@contextlib.asynccontextmanager
async def _http(host: str, port: int) -> Any:
    connection = await AsyncHttp.connect(host, port)

    async def ask(question: Question) -> bool:
        answer = await connection.ask(question.predict)
        if answer.status != 200 or connection.surplus:
            raise ConnectionError(f"status {answer.status}, {connection.surplus} bytes too many")
        return not question.json_marks or any(mark in answer.body for mark in question.json_marks)

    try:
        yield ask
    finally:
        connection.close()


@contextlib.asynccontextmanager
async def _grpc(host: str, port: int) -> Any:
    import grpc

    from nlpdeploy.wire import oip

    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
    async with grpc.aio.insecure_channel(f"{host}:{port}", options=options) as channel:
        infer = channel.unary_unary(oip.METHODS["ModelInfer"].path)

        async def ask(question: Question) -> bool:
            answer: bytes = await infer(question.infer_grpc, timeout=60)
            return not question.raw_marks or any(mark in answer for mark in question.raw_marks)

        yield ask


if __name__ == "__main__":
    # Written by this machine's parent process a moment ago.
    asyncio.run(_serve_orders(pickle.loads(Path(sys.argv[1]).read_bytes())))
