"""One run: its options, its samples, and how a slice of load becomes a sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nlpdeploy.bundle.compare import quantile

from .bare_process import BareProcess
from .book import Book
from .loader import Loader, LoadFailed, Target
from .plans import BARE
from .rates import RateSearch, trial_length
from .requests import Form, asks
from .servers import Server, Way

LIMIT = 0.045
"""Seconds that p99 must keep in the open loop."""


@dataclass(frozen=True)
class Options:
    """How much is measured.

    Attributes:
        rounds: of each closed loop; every way once a round, in an order drawn anew.
        seconds: length of a slice of a closed loop.
        clients: of the closed loops.
        searches: of the highest rate, for each way.
        trials: most trials of the first search; later ones begin at what it found, and take half of them.
        trial_seconds: length of a trial.
        seed: draws orders, arrivals and texts.
    """

    rounds: int
    seconds: float
    clients: tuple[int, ...]
    searches: int
    trials: int
    trial_seconds: float
    seed: int


@dataclass(frozen=True)
class Row:
    """A way under test, with where and what it is asked.

    Attributes:
        way: its name.
        server: of the way; None for the bare engine.
        target: where requests go; None for the bare engine.
        bare: the bare engine's process.
    """

    way: str
    server: Server | None = None
    target: Target | None = None
    bare: BareProcess | None = None


@dataclass
class Bench:
    """What parts of a run share.

    Attributes:
        options: how much.
        loader: the load client.
        texts: gone through in their order by every way.
        labels: the checkpoint's own label of each; empty where it couldn't be asked.
        say: prints a line on how far it is.
        book: all samples.
        out: why a way has not run or has broken, by its name; nothing is left out in silence.
        facts: what else is known of a server, by its name.
        broken: ways that are measured no further on the servers that are up now.
        stumbled: ways of which one slice gave no result; the second time they are broken.
    """

    options: Options
    loader: Loader
    texts: Sequence[str]
    labels: Sequence[str]
    say: Callable[[str], None]
    book: Book = field(default_factory=Book)
    out: dict[str, str] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    stumbled: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.options.seed)

    def target(self, way: Way, model: str, texts: Sequence[str], labels: Sequence[str] = (), each: int = 1) -> Target:
        """Write the requests that this way wants."""
        return Target(way.form.transport, way.port, self.loader.write(asks(way.form, model, texts, labels, each=each)))

    def rows(
        self, servers: Sequence[Server], texts: Sequence[str], labels: Sequence[str] = (), each: int = 1
    ) -> list[Row]:
        """All ways of all servers, asked these texts of their first model."""
        made: dict[tuple[Form, str], Any] = {}
        rows = []
        for server in servers:
            for way in server.ways:
                key = way.form, server.models[0]
                if key not in made:  # ways of one form share their file of requests
                    made[key] = self.target(way, server.models[0], texts, labels, each).requests
                rows.append(Row(way.name, server, Target(way.form.transport, way.port, made[key])))
        return rows

    def well(self, rows: Sequence[Row]) -> list[Row]:
        """Those that have not broken."""
        return [row for row in rows if row.way not in self.broken]

    def new_servers(self) -> None:
        """Other servers from here on: what broke before says nothing of them."""
        self.broken.clear()
        self.stumbled.clear()

    def shuffled(self, rows: Sequence[Row]) -> list[Row]:
        """In an order drawn anew."""
        return [rows[i] for i in self.rng.permutation(len(rows))]

    def closed(
        self, part: str, rows: Sequence[Row], clients: int, *, each: int = 1, seconds: float | None = None
    ) -> None:
        """One round of a closed loop: a slice for each way."""
        for row in self.shuffled(self.well(rows)):
            while row.way not in self.broken:
                try:
                    self.book.add(
                        part, row.way, **self._some_slice(row, clients, each, seconds or self.options.seconds)
                    )
                    break
                except LoadFailed as error:
                    self.failed(row, str(error))

    def failed(self, row: Row, why: str) -> None:
        """A slice gave no result. The second time the way is measured no further; what it has so far stands."""
        ended = row.server is not None and not row.server.alive
        if ended or row.way in self.stumbled:
            self.broken.add(row.way)
        self.stumbled.add(row.way)
        self.out[row.way] = f"{'broke' if row.way in self.broken else 'failed once'}: {why}"
        if ended:
            self.out[row.way] += " (the server ended)"
        self.say(f"  {row.way} {self.out[row.way]}")

    def highest_rates(self, part: str, rows: Sequence[Row], starts: dict[str, float]) -> None:
        """Search each way's highest Poisson rate whose p99 is within the limit, a trial of each in turn."""
        options = self.options
        found = dict(starts)
        for number in range(options.searches):
            trials = options.trials if number == 0 else math.ceil(options.trials / 2)
            searches = {row.way: RateSearch(found[row.way], trials=trials) for row in rows if row.way in found}
            while open_rows := [row for row in self.well(rows) if row.way in searches and not searches[row.way].done]:
                for row in self.shuffled(open_rows):
                    self._trial(part, row, searches[row.way], int(self.rng.integers(2**31)))
            for row in self.well(rows):
                if row.way in searches:
                    search = searches[row.way]
                    self.book.add(part, row.way, highest_rate=search.held, failed_rate=_finite(search.failed))
                    found[row.way] = max(search.held, 1.0)
                    self.say(f"  {row.way}: {search.held:.0f} requests/s")

    def _some_slice(self, row: Row, clients: int, each: int, seconds: float) -> dict[str, float | None]:
        # A server that answers nobody in so short a time is given more of it, not a sample of nothing.
        measures = self._slice(row, clients, each, seconds) or self._slice(row, clients, each, 5 * seconds)
        if measures is None:
            raise LoadFailed(f"no answer within {5 * seconds:g} s")
        return measures

    def _slice(self, row: Row, clients: int, each: int, seconds: float) -> dict[str, float | None] | None:
        """What one slice measured; None where nothing was answered within it."""
        if row.bare is not None:
            result = row.bare.closed(clients, seconds)
            return _measures(result["latencies"], result["rate"], result["cpu_seconds"] / result["answers"])
        assert row.server is not None
        assert row.target is not None
        with row.server.awake():
            before = row.server.tree.cpu_seconds()
            [result] = self.loader.closed([(row.target, clients)], seconds)
            cpu = row.server.tree.cpu_seconds() - before
        if result["errors"]:
            raise LoadFailed(f"{result['errors']} errors, the last one {result['error']}")
        if not result["latencies"]:
            return None
        measures = _measures(
            result["latencies"], each * len(result["latencies"]) / seconds, cpu / each / (result["answers"] + clients)
        )
        share = result["right"] / result["answers"] if self.labels else None
        return {**measures, "right": share, "client_cpu": result["client_cpu_seconds"] / seconds}

    def _trial(self, part: str, row: Row, search: RateSearch, seed: int) -> None:
        assert row.server is not None
        assert row.target is not None
        rate = search.next_rate()
        seconds = trial_length(rate, self.options.trial_seconds)
        try:
            with row.server.awake():
                result = self.loader.opened(row.target, rate=rate, seconds=seconds, seed=seed, limit=LIMIT)
        except LoadFailed as error:
            self.failed(row, str(error))
            search.report(False)
            return
        search.report(bool(result["held"]))
        self.book.add(
            f"{part}, trials",
            row.way,
            rate=rate,
            held=float(result["held"]),
            p99_ms=_scaled(result["p99"], 1e3),
            late_p99_ms=_scaled(result["late_p99"], 1e3),
            errors=result["errors"],
        )


def bare_row(bare: BareProcess, name: str = BARE) -> Row:
    """The bare engine as a row."""
    return Row(name, bare=bare)


def _measures(latencies: Sequence[float], rate: float, cpu: float) -> dict[str, float | None]:
    return {
        "rate": rate,
        "p50_ms": 1e3 * quantile(latencies, 0.5),
        "p99_ms": 1e3 * quantile(latencies, 0.99),
        "cpu_s_per_1000": 1e3 * cpu,
    }


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else scale * value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
