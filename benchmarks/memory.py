"""Whether the server's memory stays where it is when shapes change: 1 to 32 texts of 1 to 512 tokens, in a fixed order.

Two counts say it: resident memory after 500 requests and after 2,000. Pages of files, which a system may take back and
read again when it likes, are left out. A runtime that keeps something for each new
shape, or an arena that grows with each new high-water mark, fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nlpdeploy.bundle.errors import Unsupported

from .http_clients import AsyncHttp
from .messages import http_request, predict_body
from .results import print_table
from .server import serving
from .subject import Subject

REQUESTS = 2000
WARM_REQUESTS = 500
MOST_GROWTH = 0.05
MOST_TEXTS = 32
_STEP = 100
_CLIENTS = 4
_WORDS_PER_TOKEN = 0.85


@dataclass(frozen=True)
class MemoryResult:
    """Resident memory of one server process in MiB, pages of files left out.

    Attributes:
        engine: its id.
        requests: all sent.
        failed: answers with another status than 200, or with another number of rows.
        seconds: for all of them.
        resident: after every hundred requests, the server idle.
        warm: after the first 500.
        last: after all.
    """

    engine: str
    requests: int
    failed: int
    seconds: float
    resident: tuple[float, ...]
    warm: float
    last: float

    @property
    def growth(self) -> float:
        """Share by which it grew from the 500th request on."""
        return self.last / self.warm - 1


def measure_memory(subject: Subject, engine: str, *, seed: int) -> MemoryResult:
    """Send 2,000 requests of mixed shapes to a server of its own and read its memory on the way."""
    bodies = mixed_bodies(subject.texts, subject.manifest.model.max_length, REQUESTS, np.random.default_rng(seed))
    with serving(subject, engine) as server:
        started = time.monotonic()
        resident, failed = asyncio.run(_send(subject.name, server.host, server.http_port, bodies, server.process.pid))
        seconds = time.monotonic() - started
    result = MemoryResult(
        engine, len(bodies), failed, seconds, resident, resident[WARM_REQUESTS // _STEP - 1], resident[-1]
    )
    print_table(
        f"memory under mixed shapes, {engine}",
        ("after", "MiB"),
        [
            (f"{WARM_REQUESTS} requests", f"{result.warm:.1f}"),
            (f"{REQUESTS} requests", f"{result.last:.1f}"),
            (f"growth, at most {MOST_GROWTH:.0%}", f"{result.growth:+.1%}"),
            ("failed requests", str(failed)),
        ],
    )
    return result


def mixed_bodies(texts: Sequence[str], longest: int, count: int, rng: np.random.Generator) -> list[bytes]:
    """Bodies of ``/predict``: every number of texts from 1 to 32 and every length up to the model's, shuffled apart.

    Args:
        texts: whose words are used.
        longest: tokens of the longest text.
        count: of bodies.
        rng: decides order and words.
    """
    words = " ".join(texts).split()
    lengths = rng.permutation(1 + np.arange(count) % longest)
    numbers = rng.permutation(1 + np.arange(count) % MOST_TEXTS)
    bodies = []
    for length, number in zip(lengths.tolist(), numbers.tolist(), strict=True):
        size = max(1, round(_WORDS_PER_TOKEN * length))
        starts = rng.integers(len(words), size=number).tolist()
        bodies.append(predict_body([" ".join(words[(s + k) % len(words)] for k in range(size)) for s in starts]))
    return bodies


async def _send(model: str, host: str, port: int, bodies: Sequence[bytes], pid: int) -> tuple[tuple[float, ...], int]:
    connections = [await AsyncHttp.connect(host, port) for _ in range(_CLIENTS)]
    failed, resident = 0, []

    async def client(connection: AsyncHttp, own: Sequence[bytes]) -> int:
        answers = [await connection.ask(http_request(f"/v2/models/{model}/predict", body)) for body in own]
        return sum(answer.status != 200 for answer in answers)

    for first in range(0, len(bodies), _STEP):
        step = bodies[first : first + _STEP]
        clients = (client(connection, step[k::_CLIENTS]) for k, connection in enumerate(connections))
        failed += sum(await asyncio.gather(*clients))
        resident.append(_resident(pid))
        print(f"  {first + _STEP} requests: {resident[-1]:.0f} MiB", flush=True)
    for connection in connections:
        connection.close()
    return tuple(resident), failed


def _resident(pid: int) -> float:
    """Resident memory of its own, MiB: ``RssAnon`` of Linux, which has no pages of files in it."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise Unsupported("resident memory without pages of files", wanted="Linux 4.5 or newer")
