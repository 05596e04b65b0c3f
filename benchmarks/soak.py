"""``python -m benchmarks.soak``: one server under mixed traffic at a share of what it can take. Loopback only.

It passes if neither memory nor the 99th percentile has a slope after the first quarter, each request ends once and as
it must, every label is that of the engine in process, nothing is left open, and SIGTERM drains the server with
status 0.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence

import numpy as np
import psutil

from nlpdeploy.bundle.errors import NlpdeployError, Unavailable

from .http_clients import AsyncHttp
from .messages import http_request
from .results import machine, print_table, write_result
from .server import GRACE_SECONDS, ServerProcess, serving
from .soak_checks import Check, Memory, Waits, checks_of, memory_of, waits_of
from .soak_load import Arrivals, User, capacity
from .soak_texts import SoakText, soak_texts
from .soak_traffic import Books, GrpcUser, HttpUser
from .subject import Subject, add_subject_options, open_subject

_TEXTS = 300
_SAMPLE_SECONDS = 1.0
_DRAINED_ROWS = 16
_SETTLE_SECONDS = 10.0
_CAPACITY_SECONDS = 20.0
_LEAST_SAMPLES = 50


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 if all holds, 1 if not, 2 for wrong input."""
    options = _parser().parse_args(arguments)
    try:
        subject = open_subject(options)
        before = machine()
        result, passed = _soak(subject, options)
        write_result("soak", subject, before, result)
    except NlpdeployError as error:
        print(f"error: {error.line()}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print("passed" if passed else "FAILED", flush=True)
    return 0 if passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=_minutes, default=60.0, metavar="M", help="1 to 600 (default: 60)")
    parser.add_argument("--load", type=_share, default=0.7, metavar="S", help="of the capacity (default: 0.7)")
    parser.add_argument("--users", type=int, default=32, metavar="N", help="at a time, half a transport (default: 32)")
    parser.add_argument("--engine", metavar="ID", help="default: the bundle's own")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="draws texts and requests (default: 0)")
    add_subject_options(parser)
    return parser


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 1 <= minutes <= 600:
        raise argparse.ArgumentTypeError(f"found {text}; wanted 1 to 600")
    return minutes


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 2:
        raise argparse.ArgumentTypeError(f"found {text}; wanted above 0 to 2")
    return share


def _soak(subject: Subject, options: argparse.Namespace) -> tuple[dict[str, object], bool]:
    from nlpdeploy.runtime.predictor import load

    rng = np.random.default_rng(options.seed)
    predictor = load(subject.bundle, engine=options.engine)
    engine = predictor.engine.id
    texts = soak_texts(predictor, subject.texts, _TEXTS, rng)
    predictor.close()
    with serving(subject, engine) as server:
        print(f"{options.minutes:g} min of traffic on {subject.name}/{subject.version}, {engine}", flush=True)
        books, memory, waits, rate, left = asyncio.run(_traffic(subject.name, server, texts, options, rng))
        status = server.wait()
    checks = checks_of(books, memory, waits, left, status)
    _print(books, memory, waits, checks)
    result = {
        "engine": engine,
        "minutes": options.minutes,
        "users": options.users,
        "load": options.load,
        "requests_per_second": rate,
        "tokens": [min(text.tokens for text in texts), max(text.tokens for text in texts)],
        "ended": {" / ".join(key): count for key, count in sorted(books.ended.items())},
        "faults": {" / ".join(key): count for key, count in sorted(books.faults.items())},
        "texts": books.texts,
        "score_tolerance": texts[0].near,
        "memory_mib": memory,
        "waits_ms": waits,
        "checks": checks,
    }
    return result, all(check.passed for check in checks)


async def _traffic(
    model: str, server: ServerProcess, texts: Sequence[SoakText], options: argparse.Namespace, rng: np.random.Generator
) -> tuple[Books, Memory, Waits, float, dict[str, float]]:
    """How much it takes; arrivals at a share of that; then requests that are under way when SIGTERM comes."""
    books, seconds = Books(), 60 * options.minutes
    users = _users(model, server, options.users, books, rng)
    most = await capacity(users, texts, rng.spawn(len(users)), min(_CAPACITY_SECONDS, seconds / 4))
    rate = options.load * most
    print(f"  it takes {most:.1f} requests a second; {rate:.1f} arrive", flush=True)
    arrivals = Arrivals(users, texts)
    sampling = asyncio.ensure_future(_sample_memory(server.process.pid, options.minutes))
    await arrivals.run(rate, seconds, rng)
    samples = await sampling
    if len(samples) < _LEAST_SAMPLES:
        raise Unavailable("the server ended early", mend="see benchmarks/.work/server.log")
    left = await _left_open(server)
    await _drain(server, users, texts[-_DRAINED_ROWS:])
    await asyncio.gather(*(user.end() for user in users))
    return books, memory_of(samples), waits_of(arrivals.times, seconds), rate, left


def _users(model: str, server: ServerProcess, count: int, books: Books, rng: np.random.Generator) -> list[User]:
    own = rng.spawn(count)
    return [
        HttpUser(model, server.host, server.http_port, books, own[k])
        if k % 2
        else GrpcUser(model, server.host, server.grpc_port, books, own[k])
        for k in range(count)
    ]


async def _sample_memory(pid: int, minutes: float) -> list[float]:
    process = psutil.Process(pid)
    samples = []
    for _ in range(int(60 * minutes / _SAMPLE_SECONDS)):
        await asyncio.sleep(_SAMPLE_SECONDS)
        try:
            samples.append(process.memory_info().rss / 2**20)
        except psutil.NoSuchProcess:
            break
        if len(samples) % 30 == 0:
            print(f"  {len(samples) * _SAMPLE_SECONDS:.0f} s: {samples[-1]:.0f} MiB", flush=True)
    return samples


async def _left_open(server: ServerProcess) -> dict[str, float]:
    """What the server still counts as open or waiting after all users have stopped, once it had time to notice."""
    stop = time.monotonic() + _SETTLE_SECONDS
    while True:
        try:
            connection = await AsyncHttp.connect(server.host, server.http_port)
            answer = await connection.ask(http_request("/metrics", b"", method="GET"))
        except OSError:  # the server is gone
            return {}
        connection.close()
        left = {}
        for line in answer.body.decode().splitlines():
            name, _, value = line.rpartition(" ")
            if name.startswith(("nlpdeploy_open_requests{", "nlpdeploy_queue_rows{", "nlpdeploy_queue_tokens{")):
                left[name.partition("{")[0].removeprefix("nlpdeploy_")] = float(value)
        if not any(left.values()) or time.monotonic() > stop:
            return left
        await asyncio.sleep(0.1)


async def _drain(server: ServerProcess, users: Sequence[User], asked: Sequence[SoakText]) -> None:
    under_way = [asyncio.ensure_future(user.answer("drain", asked)) for user in users]
    await asyncio.sleep(0.05)
    server.terminate()
    await asyncio.wait_for(asyncio.gather(*under_way), GRACE_SECONDS)


def _print(books: Books, memory: Memory, waits: Waits, checks: Sequence[Check]) -> None:
    print_table(
        "how requests ended",
        ("transport, kind, end", "requests", "fault"),
        [(", ".join(key), str(count), str(books.faults.get(key, ""))) for key, count in sorted(books.ended.items())],
    )
    print_table(
        "memory of the server",
        ("when", "MiB"),
        [
            ("after the first quarter", f"{memory.after_first_quarter:.1f}"),
            ("in the last tenth", f"{memory.at_the_end:.1f}"),
            ("peak", f"{memory.peak:.1f}"),
        ],
    )
    print_table(
        "from due to answered, requests of 1 to 32 texts",
        ("of", "ms"),
        [
            (f"p50 of {waits.count}", f"{waits.p50:.1f}"),
            ("p99", f"{waits.p99:.1f}"),
            *[(f"p99 of window {k + 1} of {len(waits.windows)}", f"{p99:.1f}") for k, p99 in enumerate(waits.windows)],
        ],
    )
    print_table(
        "checks",
        ("what must hold", "found", "passed"),
        [(check.what, check.found, "yes" if check.passed else "NO") for check in checks],
    )


if __name__ == "__main__":
    sys.exit(main())
