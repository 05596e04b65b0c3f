"""Section ``front``, part two: how much of the engine's best throughput a closed loop of clients gets.

Server and clients share the machine's cores, as the bare engine doesn't have to; what each took is in the result.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import psutil

from nlpdeploy.runtime.batching import lay_out
from nlpdeploy.runtime.calls import MAX_ROWS
from nlpdeploy.runtime.engine import Engine, Feed
from nlpdeploy.runtime.predictor import Predictor
from nlpdeploy.runtime.text import Row

from .closed_loop import ClientProcess, LoopResult
from .engines import planned_feeds, run_feeds
from .results import print_table
from .samples import Arm, Spread, interleave, ratios, spread
from .server import ServerProcess

TRANSPORTS = ("http", "grpc")
BEST, ARRIVALS = "engine, best batches", "engine, as they come"
_ROUNDS = 5
_LEAST_SLICE = 1.0
_ROW_LIMITS = tuple(rows for rows in (4, 8, 16, 32) if rows <= MAX_ROWS)
_SWEEP_SHARE = 0.1


@dataclass(frozen=True)
class FrontResult:
    """One transport under load.

    Attributes:
        texts_per_second: a sample a slice of time.
        share: of the engine's best throughput, of the same round.
        share_of_arrivals: of what the engine alone gets in batches as they come, of the same round.
        latency_ms: of all requests that were answered in time.
        errors: requests without an answer of status OK.
        wrong: answers with another label than the engine's own.
        server_cpu_us: processor time that the server took a text, the engine included.
        client_cpu_us: that the clients took.
    """

    texts_per_second: Spread
    share: Spread
    share_of_arrivals: Spread
    latency_ms: Spread
    errors: int
    wrong: int
    server_cpu_us: float
    client_cpu_us: float


@dataclass(frozen=True)
class ThroughputResult:
    """The part's result.

    Attributes:
        clients: in the closed loop, each on a connection of its own with one text a request.
        texts: texts that are gone through.
        best_rows: rows a batch with which the engine was fastest, sorted by length.
        best: texts a second of the engine alone in such batches, in all its lanes.
        arrivals: of the engine alone in batches of as many texts as a lane has clients, in the order of their arrival.
        fronts: by transport.
    """

    clients: int
    texts: int
    best_rows: int
    best: Spread
    arrivals: Spread
    fronts: Mapping[str, FrontResult]


def measure_throughput(
    predictor: Predictor,
    server: ServerProcess,
    load: ClientProcess,
    texts: Sequence[str],
    *,
    clients: int,
    seconds: float,
    rng: np.random.Generator,
) -> ThroughputResult:
    """Let clients and the bare engine work in turn, in slices of time, and print the table.

    Args:
        predictor: the engine that is served, loaded here too; each idles while the other works.
        server: the server.
        load: where the clients live; they know the same texts.
        texts: texts.
        clients: in the closed loop.
        seconds: time to spend.
        rng: draws the orders.
    """
    engine, lanes, rows = predictor.engine, predictor.lanes, predictor.encode(texts)
    best_rows = _best_rows(predictor, rows, _SWEEP_SHARE * seconds, rng)
    slice_seconds = max(_LEAST_SLICE, (1 - _SWEEP_SHARE) * seconds / (4 * _ROUNDS))
    loops: dict[str, list[LoopResult]] = {name: [] for name in TRANSPORTS}
    server_seconds = dict.fromkeys(TRANSPORTS, 0.0)
    process = psutil.Process(server.process.pid)

    def front(name: str, port: int) -> Arm:
        def run(index: int) -> float:
            before = process.cpu_times()
            result = load.load(name, server.host, port, clients=clients, seconds=slice_seconds)
            after = process.cpu_times()
            server_seconds[name] += after.user + after.system - before.user - before.system
            loops[name].append(result)
            return result.rate

        return run

    arms = {
        BEST: _bare(lanes, planned_feeds(engine, rows, predictor.model, best_rows), len(rows), slice_seconds),
        ARRIVALS: _bare(lanes, _arrivals(predictor, rows, max(1, clients // len(lanes))), len(rows), slice_seconds),
        "http": front("http", server.http_port),
        "grpc": front("grpc", server.grpc_port),
    }
    samples = interleave(arms, seconds=(1 - _SWEEP_SHARE) * seconds, least=_ROUNDS, rng=rng)
    result = ThroughputResult(
        clients=clients,
        texts=len(texts),
        best_rows=best_rows,
        best=spread(samples[BEST]),
        arrivals=spread(samples[ARRIVALS]),
        fronts={name: _summed_up(name, samples, loops[name], server_seconds[name]) for name in loops},
    )
    _print(engine.id, result, slice_seconds)
    return result


def _best_rows(predictor: Predictor, rows: Sequence[Row], seconds: float, rng: np.random.Generator) -> int:
    """The limit of rows a batch with which the engine is fastest."""

    def arm(limit: int) -> Arm:
        feeds = planned_feeds(predictor.engine, rows, predictor.model, limit)
        run_feeds(predictor.engine, feeds)
        return lambda index: run_feeds(predictor.engine, feeds)

    taken = interleave({str(limit): arm(limit) for limit in _ROW_LIMITS}, seconds=seconds, least=3, rng=rng)
    return min(_ROW_LIMITS, key=lambda limit: spread(taken[str(limit)]).median)


def _arrivals(predictor: Predictor, rows: Sequence[Row], size: int) -> list[Feed]:
    """Batches of ``size`` texts in their order: all that a front could have before it at a time."""
    engine, model = predictor.engine, predictor.model
    batches = [rows[first : first + size] for first in range(0, len(rows), size)]
    return [lay_out(batch, engine.layout, engine.inputs, model.pad_id) for batch in batches]


def _bare(lanes: Sequence[Engine], feeds: Sequence[Feed], texts: int, seconds: float) -> Arm:
    """Texts a second of whole passes over the batches, all lanes at work as in the server."""
    pool = ThreadPoolExecutor(len(lanes))
    parts = [feeds[first :: len(lanes)] for first in range(len(lanes))]

    def run(index: int) -> float:
        started, passes = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            list(pool.map(run_feeds, lanes, parts))
            passes += 1
        return passes * texts / (time.perf_counter() - started)

    return run


def _summed_up(
    name: str, samples: Mapping[str, Sequence[float]], loops: Sequence[LoopResult], server_seconds: float
) -> FrontResult:
    latencies = [latency for loop in loops for latency in loop.latencies]
    return FrontResult(
        texts_per_second=spread(samples[name]),
        share=ratios(samples[name], samples[BEST]),
        share_of_arrivals=ratios(samples[name], samples[ARRIVALS]),
        latency_ms=spread(latencies, 1e3),
        errors=sum(loop.errors for loop in loops),
        wrong=sum(loop.wrong for loop in loops),
        server_cpu_us=1e6 * server_seconds / len(latencies),
        client_cpu_us=1e6 * sum(loop.cpu_seconds for loop in loops) / len(latencies),
    )


def _print(engine: str, result: ThroughputResult, slice_seconds: float) -> None:
    blanks = ("", "", "", "", "", "")
    print_table(
        f"front, {result.clients} clients in a closed loop on {engine}: {result.best.count} rounds of "
        f"{slice_seconds:.1f} s each; clients and server share the cores;\n"
        f"best: sorted batches of {result.best_rows}; CPU: processor time a text; median [quartiles]",
        ("way", "texts/s", "of best", "of as they come", "p50 ms", "p95 ms", "errors", "wrong", "CPU us", "clients"),
        [
            (BEST, f"{result.best:.0f}", "1", *blanks, ""),
            (ARRIVALS, f"{result.arrivals:.0f}", f"{result.arrivals.median / result.best.median:.2f}", "1", *blanks),
            *(
                (
                    f"front, {name}",
                    f"{front.texts_per_second:.0f}",
                    f"{front.share:.2f}",
                    f"{front.share_of_arrivals:.2f}",
                    f"{front.latency_ms.median:.2f}",
                    f"{front.latency_ms.p95:.2f}",
                    str(front.errors),
                    str(front.wrong),
                    f"{front.server_cpu_us:.0f}",
                    f"{front.client_cpu_us:.0f}",
                )
                for name, front in result.fronts.items()
            ),
        ],
    )
