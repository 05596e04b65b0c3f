"""``python -m benchmarks.soak``: one server under mixed traffic for some minutes. Loopback only.

It passes if memory stays level after the first quarter, each request ends once and as it must, every label is that of
the engine in process, nothing is left open, and SIGTERM drains the server with status 0.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil

from nlpdeploy.bundle.errors import NlpdeployError, Unavailable

from .http_clients import AsyncHttp
from .messages import http_request
from .results import machine, print_table, write_result
from .server import GRACE_SECONDS, ServerProcess, serving
from .soak_texts import SoakText, soak_texts
from .soak_traffic import Books, GrpcUser, HttpUser, use
from .subject import Subject, add_subject_options, open_subject

MOST_GROWTH = 0.05
_TEXTS = 300
_SAMPLE_SECONDS = 1.0
_DRAINED_ROWS = 16
_SETTLE_SECONDS = 10.0

User = HttpUser | GrpcUser


@dataclass(frozen=True)
class Check:
    """One thing that must hold."""

    what: str
    found: str
    passed: bool


@dataclass(frozen=True)
class Memory:
    """Resident memory of the server, in MiB.

    Attributes:
        after_first_quarter: median over the tenth of the run that follows its first quarter.
        at_the_end: median over the last tenth.
        peak: largest sample.
        samples: one a second.
    """

    after_first_quarter: float
    at_the_end: float
    peak: float
    samples: tuple[float, ...]

    @property
    def growth(self) -> float:
        """Share by which it grew."""
        return self.at_the_end / self.after_first_quarter - 1


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
    parser.add_argument("--minutes", type=_minutes, default=10.0, metavar="M", help="0.2 to 600 (default: 10)")
    parser.add_argument("--users", type=int, default=8, metavar="N", help="at a time, half a transport (default: 8)")
    parser.add_argument("--engine", metavar="ID", help="default: the bundle's own")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="draws texts and requests (default: 0)")
    add_subject_options(parser)
    return parser


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0.2 <= minutes <= 600:
        raise argparse.ArgumentTypeError(f"found {text}; wanted 0.2 to 600")
    return minutes


def _soak(subject: Subject, options: argparse.Namespace) -> tuple[dict[str, object], bool]:
    from nlpdeploy.runtime.predictor import load

    rng = np.random.default_rng(options.seed)
    predictor = load(subject.bundle, engine=options.engine)
    engine = predictor.engine.id
    texts = soak_texts(predictor, subject.texts, _TEXTS, rng)
    predictor.close()
    with serving(subject, engine) as server:
        print(f"{options.minutes:g} min of traffic on {subject.name}/{subject.version}, {engine}", flush=True)
        books, memory, left = asyncio.run(_traffic(subject.name, server, texts, options, rng))
        status = server.wait()
    checks = _checks(books, memory, left, status)
    _print(books, memory, checks)
    result = {
        "engine": engine,
        "minutes": options.minutes,
        "users": options.users,
        "tokens": [min(text.tokens for text in texts), max(text.tokens for text in texts)],
        "ended": {" / ".join(key): count for key, count in sorted(books.ended.items())},
        "faults": {" / ".join(key): count for key, count in sorted(books.faults.items())},
        "texts": books.texts,
        "score_tolerance": texts[0].near,
        "memory_mib": memory,
        "checks": checks,
    }
    return result, all(check.passed for check in checks)


async def _traffic(
    model: str, server: ServerProcess, texts: Sequence[SoakText], options: argparse.Namespace, rng: np.random.Generator
) -> tuple[Books, Memory, dict[str, float]]:
    """All users until the time is over, then requests that are under way when SIGTERM comes."""
    books = Books()
    users = _users(model, server, options.users, books, rng)
    end = time.monotonic() + 60 * options.minutes
    sampling = asyncio.ensure_future(_sample_memory(server.process.pid, options.minutes))
    await asyncio.gather(*(use(user, texts, own, end) for user, own in zip(users, rng.spawn(len(users)), strict=True)))
    memory = _memory(await sampling)
    left = await _left_open(server)
    await _drain(server, users, texts[-_DRAINED_ROWS:])
    await asyncio.gather(*(user.end() for user in users))
    return books, memory, left


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


def _memory(samples: Sequence[float]) -> Memory:
    if not samples:
        raise Unavailable("the server ended at once", mend="see benchmarks/.work/server.log")
    quarter, tenth = len(samples) // 4, max(1, len(samples) // 10)
    return Memory(
        after_first_quarter=float(np.median(samples[quarter : quarter + tenth])),
        at_the_end=float(np.median(samples[-tenth:])),
        peak=max(samples),
        samples=tuple(round(sample, 1) for sample in samples),
    )


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


def _checks(books: Books, memory: Memory, left: dict[str, float], status: int) -> list[Check]:
    sent, ended = sum(books.sent.values()), sum(books.ended.values())
    faults = sum(books.faults.values())
    open_now = ", ".join(f"{name} {value:.0f}" for name, value in left.items()) or "no such metrics"
    return [
        Check(
            f"memory grows by at most {MOST_GROWTH:.0%} after the first quarter",
            f"{memory.growth:+.1%}",
            0 < memory.at_the_end <= (1 + MOST_GROWTH) * memory.after_first_quarter,
        ),
        Check("each request ends once", f"{sent} sent, {ended} ended", sent == ended > 0),
        Check("no request ends as it must not", f"{faults} faults", faults == 0),
        Check(
            "every label and score as in process",
            f"{books.wrong} of {books.wrong + books.texts} texts wrong",
            books.wrong == 0 < books.texts,
        ),
        Check("nothing is left open or waiting", open_now, bool(left) and not any(left.values())),
        Check("SIGTERM drains the server with status 0", f"status {status}", status == 0),
    ]


def _print(books: Books, memory: Memory, checks: Sequence[Check]) -> None:
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
        "checks",
        ("what must hold", "found", "passed"),
        [(check.what, check.found, "yes" if check.passed else "NO") for check in checks],
    )


if __name__ == "__main__":
    sys.exit(main())
