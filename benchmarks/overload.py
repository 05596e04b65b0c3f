"""Twice the load that can be answered: how much is still answered in time, what is refused, what is run for nobody.

Capacity is what the same server answers in a closed loop of the same client. In turns with it requests leave as a
Poisson process at twice that rate, each with a limit of time that the server is told, and in the end at half of it. A
turn is compared with the capacity right before and after it, and the median of the turns counts: machines change their
speed by the minute. At half the capacity every refusal is wrong; at twice the capacity so many are as the server could
have answered besides.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import psutil

from nlpdeploy.bundle.compare import quantile

from .flood import Flood, closed_loop
from .http_clients import AsyncHttp
from .messages import http_request, predict_body
from .results import print_table
from .server import ServerProcess, serving
from .subject import Subject

LIMIT_SECONDS = 0.25
CLIENTS = 64
GOODPUT = 0.95
WRONG = 0.05
CONNECTIONS = 1.2
"""Opened ahead, of as many as there are when each request takes all its time."""
TURNS = 5
TIMED = "timed"
"""The engine of known service time."""
APART = ", client apart"
"""Behind the name of an engine that had no client on its cores."""
_DRAIN_SECONDS = 5.0


@dataclass
class Wave:
    """What became of the requests of one open loop.

    Attributes:
        rate: offered, requests a second.
        seconds: from the first to the last.
        ended: number by HTTP status; 0 for a connection that broke.
        meanwhile: answered before the last request left. What the queue holds then is answered without an overload, and
            its like was not there at the start.
        refused: by the server's own reason.
        rows_run: rows that the engine ran meanwhile.
        p99_ms: of the answered, from the time the request was due.
        cost: processor seconds of the server an answer, all that it refuses on top.
    """

    rate: float
    seconds: float
    ended: dict[int, int] = field(default_factory=dict)
    meanwhile: int = 0
    refused: dict[str, float] = field(default_factory=dict)
    rows_run: float = 0.0
    p99_ms: float | None = None
    cost: float = 0.0

    @property
    def sent(self) -> int:
        """All requests."""
        return sum(self.ended.values())

    @property
    def goodput(self) -> float:
        """Answers a second, all of them in time: later ones are 504."""
        return self.meanwhile / self.seconds

    @property
    def in_vain(self) -> float:
        """Rows that were run for an answer that nobody got."""
        return self.rows_run - self.ended.get(200, 0)


@dataclass(frozen=True)
class Closed:
    """A closed loop.

    Attributes:
        rate: answers a second.
        cost: processor seconds of the server an answer.
    """

    rate: float
    cost: float


@dataclass(frozen=True)
class Turn:
    """An open loop between two closed ones.

    Attributes:
        before: the closed loop before it.
        double: at twice that one's rate.
        after: the closed loop after it.
    """

    before: Closed
    double: Wave
    after: Closed

    @property
    def capacity(self) -> float:
        """Answers a second that the server has time for."""
        return (self.before.rate + self.after.rate) / 2

    @property
    def kept(self) -> float:
        """Goodput at twice the load over the capacity."""
        return self.double.goodput / self.capacity

    @property
    def kept_by_cost(self) -> float:
        """The same by the server's processor time: what an answer costs it in a closed loop over what it costs beside
        all refusals. This one doesn't mind what a client that floods takes of the same cores, nor who else is at work.
        """
        return (self.before.cost + self.after.cost) / 2 / self.double.cost

    @property
    def wrong(self) -> float:
        """Share of all requests that were refused though the engine had time for them."""
        missing = self.capacity - self.double.goodput
        return max(0.0, missing) / self.double.rate


@dataclass(frozen=True)
class OverloadResult:
    """Of one engine.

    Attributes:
        engine: its id, or what stands for one.
        turns: at twice the capacity.
        half: at half the capacity.
    """

    engine: str
    turns: tuple[Turn, ...]
    half: Wave

    @property
    def wrong_half(self) -> float:
        """Share of requests without an answer at half the capacity."""
        return 1 - self.half.ended.get(200, 0) / self.half.sent

    @property
    def balanced(self) -> bool:
        """Whether every request ended as it may: answered, refused with 429, or out of time with 504."""
        waves = [*(turn.double for turn in self.turns), self.half]
        return not {status for wave in waves for status in wave.ended} - {200, 429, 504}


def measure_overload(
    subject: Subject, engine: str, texts: Sequence[str], *, seconds: float, rng: np.random.Generator
) -> list[OverloadResult]:
    """An engine of known service time, then the real one, each in a server process of its own."""
    stub = ["benchmarks.timed_engine", str(subject.bundle)]
    results = []
    for name, command in ((TIMED, stub), (engine, None)):
        with serving(subject, engine, module=command) as server:
            results.append(asyncio.run(_measure(name, subject.name, server, texts, seconds, rng)))
    if len(os.sched_getaffinity(0)) > 1:
        with _client_apart() as client, serving(subject, engine) as server:
            client()
            results.append(asyncio.run(_measure(f"{engine}{APART}", subject.name, server, texts, seconds, rng)))
    _print(results)
    return results


@contextlib.contextmanager
def _client_apart() -> Iterator[Callable[[], None]]:
    """What is started in it has all cores but the last; the call that it gives moves this thread to the last."""
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, every - {max(every)})
    try:
        yield lambda: os.sched_setaffinity(0, {max(every)})
    finally:
        os.sched_setaffinity(0, every)


async def _measure(
    name: str, model: str, server: ServerProcess, texts: Sequence[str], seconds: float, rng: np.random.Generator
) -> OverloadResult:
    limit = [f"x-request-timeout-ms: {LIMIT_SECONDS * 1000:.0f}"]
    path = f"/v2/models/{model}/predict"
    patient = [http_request(path, predict_body([text])) for text in texts]
    limited = [http_request(path, predict_body([text]), limit) for text in texts]
    await _closed(server, patient, seconds / 4)  # the forecast learns, connections are made
    closed = [await _closed(server, patient, seconds / TURNS)]
    turns = []
    for _ in range(TURNS):
        double = await _wave(server, limited, 2 * closed[-1].rate, seconds / TURNS, rng)
        closed.append(await _closed(server, patient, seconds / TURNS))
        turns.append(Turn(closed[-2], double, closed[-1]))
    half = await _wave(server, limited, float(np.mean([loop.rate for loop in closed])) / 2, seconds, rng)
    return OverloadResult(name, tuple(turns), half)


async def _closed(server: ServerProcess, asked: Sequence[bytes], seconds: float) -> Closed:
    begun = _processor_seconds(server)
    rate = await closed_loop(server.host, server.http_port, asked, CLIENTS, seconds)
    answers = rate * seconds + CLIENTS  # and the last of each client
    return Closed(rate, (_processor_seconds(server) - begun) / answers)


async def _wave(
    server: ServerProcess, asked: Sequence[bytes], rate: float, seconds: float, rng: np.random.Generator
) -> Wave:
    offsets = np.cumsum(rng.exponential(1 / rate, size=int(rate * seconds))).tolist()
    before = await _metrics(server)
    flood = Flood(server.host, server.http_port)
    await flood.connect(round(CONNECTIONS * rate * LIMIT_SECONDS))
    begun = _processor_seconds(server)
    await flood.run(asked, offsets, _DRAIN_SECONDS + LIMIT_SECONDS)
    cost = (_processor_seconds(server) - begun) / max(flood.ended[200], 1)
    after = await _metrics(server)
    changed = {name: value - before.get(name, 0.0) for name, value in after.items()}
    refused = {
        name.partition('reason="')[2].partition('"')[0]: value
        for name, value in changed.items()
        if name.startswith("nlpdeploy_refusals_total") and value
    }
    rows = sum(value for name, value in changed.items() if name.startswith("nlpdeploy_batch_rows_sum"))
    latencies = [came - due for due, came in flood.answered]
    p99 = 1000 * quantile(np.asarray(latencies), 0.99) if latencies else None
    meanwhile = sum(came <= flood.seconds for _, came in flood.answered)
    spent = flood.seconds
    return Wave(len(offsets) / spent, spent, dict(sorted(flood.ended.items())), meanwhile, refused, rows, p99, cost)


def _processor_seconds(server: ServerProcess) -> float:
    times = psutil.Process(server.process.pid).cpu_times()
    return float(times.user + times.system)


async def _metrics(server: ServerProcess) -> dict[str, float]:
    connection = await AsyncHttp.connect(server.host, server.http_port)
    answer = await connection.ask(http_request("/metrics", b"", method="GET"))
    connection.close()
    lines = (line.rpartition(" ") for line in answer.body.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def _print(results: Sequence[OverloadResult]) -> None:
    def ends(result: OverloadResult) -> str:
        doubles = [turn.double for turn in result.turns]
        told = [str(sum(wave.ended.get(status, 0) for wave in doubles)) for status in (200, 429, 504)]
        return f"{' / '.join(told)} of {sum(wave.sent for wave in doubles)}"

    def spread(values: Sequence[float], form: str) -> str:
        low, middle, high = np.quantile(values, (0.0, 0.5, 1.0))
        return f"{middle:{form}} ({low:{form}} to {high:{form}})"

    def by_cost(result: OverloadResult) -> str:
        if result.engine == TIMED:  # its answers cost no processor time
            return "-"
        return spread([turn.kept_by_cost for turn in result.turns], ".1%")

    rows: list[tuple[str, Callable[[OverloadResult], str], str]] = [
        ("capacity, 1/s", lambda r: spread([turn.capacity for turn in r.turns], ".0f"), ""),
        ("offered, 1/s", lambda r: spread([turn.double.rate for turn in r.turns], ".0f"), ""),
        ("answered / 429 / 504", ends, ""),
        ("goodput over capacity", lambda r: spread([turn.kept for turn in r.turns], ".1%"), f">= {GOODPUT:.0%}"),
        ("the same by the server's processor time", by_cost, f">= {GOODPUT:.0%}"),
        ("rows run for nobody", lambda r: f"{sum(turn.double.in_vain for turn in r.turns):.0f}", "0"),
        ("refused though there was time", lambda r: spread([turn.wrong for turn in r.turns], ".1%"), f"<= {WRONG:.0%}"),
        ("the same at half the capacity", lambda r: f"{r.wrong_half:.1%}", f"<= {WRONG:.0%}"),
        ("every request ended as it may", lambda r: "yes" if r.balanced else "NO", "yes"),
    ]
    print_table(
        f"overload: twice the capacity, {1000 * LIMIT_SECONDS:.0f} ms a request; median (range) of {TURNS} turns",
        ("what", *(result.engine for result in results), "wanted"),
        [(what, *map(say, results), wanted) for what, say, wanted in rows],
    )
