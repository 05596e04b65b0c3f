"""The load client's own process: closed loops and open loops over HTTP and gRPC, the same for every server.

``python -m benchmarks.serve.load`` reads one order a line from standard input and writes one result a line;
:mod:`.loader` is the other end. Requests come ready-made from files that the orders name.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from .links import LINKS, REQUEST_SECONDS, Send, read_asks
from .open_loop import opened
from .requests import Ask

Result = dict[str, Any]


def right(ask: Ask, answer: bytes) -> bool:
    """Whether the answer holds the right labels."""
    return all(mark in answer for mark in ask.marks)


async def closed(loads: Sequence[dict[str, Any]], seconds: float) -> list[Result]:
    """Closed loops side by side: each client asks again as soon as it is answered.

    Args:
        loads: of each: ``transport``, ``host``, ``port``, ``requests`` (a path), ``clients``.
        seconds: length of the slice.
    """
    results: list[Result] = [{"latencies": [], "errors": 0, "right": 0, "answers": 0, "error": None} for _ in loads]
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for load, result in zip(loads, results, strict=True):
            asked = read_asks(load["requests"])
            opened = LINKS[load["transport"]]
            for k in range(load["clients"]):
                send = await stack.enter_async_context(opened(load["host"], load["port"]))
                clients.append((send, asked, k, load["clients"], result))
        # One request each before the clock runs: connections are made, the server's batches are full.
        await asyncio.wait_for(asyncio.gather(*(send(asked[k % len(asked)]) for send, asked, k, *_ in clients)), 60)
        before = _cpu_seconds()
        end = time.perf_counter() + seconds
        tasks = [asyncio.ensure_future(_client(*client, end)) for client in clients]
        _, late = await asyncio.wait(tasks, timeout=seconds + REQUEST_SECONDS)
        used = _cpu_seconds() - before
        for task in late:
            task.cancel()
        for task, client in zip(tasks, clients, strict=True):
            if task in late:
                client[-1]["errors"] += 1
                client[-1]["error"] = f"no answer within {REQUEST_SECONDS:g} s"
    for result in results:
        result["client_cpu_seconds"] = used / len(results)
    return results


async def _client(send: Send, asked: Sequence[Ask], first: int, step: int, result: Result, end: float) -> None:
    index = first
    while (started := time.perf_counter()) < end:
        ask = asked[index % len(asked)]
        try:
            answer = await send(ask)
        except Exception as error:  # noqa: BLE001  (whatever a client can meet is one error in the books)
            result["errors"] += 1
            result["error"] = f"{type(error).__name__}: {error}"
            if isinstance(error, ConnectionError):
                return
            await asyncio.sleep(0.01)
            continue
        ended = time.perf_counter()
        if ended <= end:
            result["latencies"].append(ended - started)
        result["answers"] += 1
        result["right"] += right(ask, answer)
        index += step


async def once(transport: str, host: str, port: int, requests: str, clients: int) -> Result:
    """Ask each request exactly once, with so many clients: how many answers, and how many with the right labels."""
    asked = list(read_asks(requests))
    result: Result = {"errors": 0, "right": 0, "answers": 0, "error": None}
    pending = iter(asked)

    async def client(send: Send) -> None:
        for ask in pending:
            try:
                answer = await send(ask)
            except Exception as error:  # noqa: BLE001  (one error in the books)
                result["errors"] += 1
                result["error"] = f"{type(error).__name__}: {error}"
                if isinstance(error, ConnectionError):
                    return
                continue
            result["answers"] += 1
            result["right"] += right(ask, answer)

    async with contextlib.AsyncExitStack() as stack:
        links = [await stack.enter_async_context(LINKS[transport](host, port)) for _ in range(clients)]
        await asyncio.gather(*(client(send) for send in links))
    return result


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def _serve_orders() -> None:
    loop = asyncio.get_running_loop()
    kinds: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {"closed": closed, "once": once, "open": opened}
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order: dict[str, Any] = json.loads(line)
        try:
            answer = json.dumps({"result": await kinds[order.pop("kind")](**order)})
        except Exception as error:  # noqa: BLE001  (told to the parent, which goes on with the next way)
            answer = json.dumps({"failure": f"{type(error).__name__}: {error}"})
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_serve_orders())
