"""The bare engine in a process of its own: no tokenizer, no transport, batches laid out beforehand.

``bare BUNDLE ENGINE INPUTS`` writes ``ready`` and then answers one order a line, as ``load`` does. What is N clients
for a server is here: at most N texts at work, shared among the engine's lanes. It is a limit, so all texts are known
beforehand and the planner puts those of like length together; how many go into a call, and whether the lanes run them
or one engine on all the cores, is what a trial found fastest, whatever a server would choose.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlpdeploy.runtime.batching import lay_out, plan, token_budget
from nlpdeploy.runtime.calls import MAX_ROWS, run_rows
from nlpdeploy.runtime.cores import usable_cores
from nlpdeploy.runtime.engine import Engine, Feed
from nlpdeploy.runtime.predictor import Predictor, load

TRIAL_SECONDS, TRIALS = 0.25, 2
"""Of each way to run so many texts, by turns."""
WARM_SECONDS = 2.0
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Call:
    """Some texts laid out.

    Attributes:
        texts: how many.
        tokens: theirs, without padding.
        feed: for the engine.
    """

    texts: int
    tokens: int
    feed: Feed


@dataclass(frozen=True)
class Setup:
    """A way to run so many texts.

    Attributes:
        name: in words.
        engines: that work side by side.
        calls: gone through again and again.
    """

    name: str
    engines: Sequence[Engine]
    calls: Sequence[Call]


@dataclass(frozen=True)
class _Work:
    """Of one engine: its calls, seconds of each, seconds in all."""

    calls: list[Call]
    latencies: list[float]
    seconds: float

    @property
    def texts(self) -> int:
        return sum(call.texts for call in self.calls)

    @property
    def tokens(self) -> int:
        return sum(call.tokens for call in self.calls)


class Bare:
    """The engine, with all its lanes.

    Args:
        predictor: loaded with all lanes.
        wide: the same engine on all the cores; None where a lane has them.
        texts: gone through in their order.
        clock: seconds.
    """

    def __init__(
        self,
        predictor: Predictor,
        wide: Engine | None,
        texts: Sequence[str],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._predictor = predictor
        self._wide = wide
        self._rows = predictor.encode(texts)
        self._clock = clock
        self._pool = ThreadPoolExecutor(len(predictor.lanes))
        self._chosen: dict[int, Setup] = {}
        self._warm: set[tuple[object, ...]] = set()

    def closed(self, clients: int, seconds: float) -> dict[str, Any]:
        """Calls until the time is over; those under way are waited for and count.

        Returns:
            ``latencies`` of the calls in seconds, ``answers`` (texts), ``rate`` (texts a second), ``cpu_seconds``, and
            ``setup``, how the engine was run, in words.
        """
        if clients not in self._chosen:
            setups = self._setups(clients)
            for setup in setups:
                list(self._pool.map(self._warm_up, setup.engines, [setup.calls] * len(setup.engines)))
            self._chosen[clients] = self._fastest(setups)
        before = time.process_time()
        works = self._run(self._chosen[clients], seconds)
        return {
            "latencies": [latency for work in works for latency in work.latencies],
            "answers": sum(work.texts for work in works),
            # Each engine's texts over its own time, so that no call is cut.
            "rate": sum(work.texts / work.seconds for work in works),
            "cpu_seconds": time.process_time() - before,
            "setup": self._chosen[clients].name,
        }

    def right(self, labels: Sequence[str]) -> int:
        """How many of the texts, each alone, get their label."""
        predictor = self._predictor
        names = predictor.model.labels
        tops = (run_rows(predictor.engine, [row], predictor.model)[0].argmax() for row in self._rows)
        return sum(names[int(top)] == label for top, label in zip(tops, labels, strict=True))

    def _setups(self, clients: int) -> list[Setup]:
        """What a server could do with so many texts, and more, since it doesn't know beforehand which will come."""
        predictor = self._predictor
        lanes = list(predictor.lanes)[:clients]
        most = min(-(-clients // len(lanes)), MAX_ROWS)
        limits = sorted({most, *(2**k for k in range(most.bit_length()))})
        setups = [Setup(f"{_lanes(len(lanes))}, {_rows(limit)}", lanes, self._calls(limit)) for limit in limits]
        if self._wide is not None:
            limit = min(clients, MAX_ROWS)
            setups.append(Setup(f"one engine on all cores, {_rows(limit)}", [self._wide], self._calls(limit)))
        return setups

    def _calls(self, most: int) -> list[Call]:
        """Calls of up to so many texts: alone in their order, else of like length as the planner puts them."""
        predictor, engine = self._predictor, self._predictor.engine
        groups = [[i] for i in range(len(self._rows))]
        if most > 1:
            curve = next((entry.curve for entry in predictor.manifest.engines if entry.id == engine.id), None)
            lengths, budget = [len(row) for row in self._rows], token_budget(engine.layout)
            groups = plan(lengths, max_tokens=budget, max_rows=most, layout=engine.layout, curve=curve)
            # Sorted by length as they are, a slice would go through a part of the lengths only.
            groups = [groups[i] for i in sorted(range(len(groups)), key=lambda i: i * _GOLDEN % 1)]
        pad_id = predictor.model.pad_id
        grouped = [[self._rows[i] for i in group] for group in groups]
        return [
            Call(len(rows), sum(map(len, rows)), lay_out(rows, engine.layout, engine.inputs, pad_id))
            for rows in grouped
        ]

    def _warm_up(self, engine: Engine, calls: Sequence[Call]) -> None:
        """Run each shape once, for so long at most: the first time can cost more."""
        stop = self._clock() + WARM_SECONDS
        for call in calls:
            if self._clock() > stop:
                return
            shape = id(engine), *(tensor.shape for tensor in call.feed.values())
            if shape not in self._warm:
                engine.run(call.feed)
                self._warm.add(shape)

    def _fastest(self, setups: Sequence[Setup]) -> Setup:
        """The one with the most tokens a second in its best trial: a neighbour on the cores only ever slows one."""
        best = [0.0] * len(setups)
        for _ in range(TRIALS if len(setups) > 1 else 0):
            for number, setup in enumerate(setups):
                works = self._run(setup, TRIAL_SECONDS)
                best[number] = max(best[number], sum(work.tokens / work.seconds for work in works))
        return setups[best.index(max(best))]

    def _run(self, setup: Setup, seconds: float) -> list[_Work]:
        count = len(setup.engines)
        firsts = [k * len(setup.calls) // count for k in range(count)]  # each begins at another place
        begun = self._clock()

        def work(engine: Engine, first: int) -> _Work:
            return self._work(engine, setup.calls, first, begun, seconds)

        return list(self._pool.map(work, setup.engines, firsts))

    def _work(self, engine: Engine, calls: Sequence[Call], first: int, begun: float, seconds: float) -> _Work:
        done: list[Call] = []
        latencies: list[float] = []
        ended = begun
        while ended < begun + seconds:
            call = calls[(first + len(done)) % len(calls)]
            started = self._clock()
            engine.run(call.feed)
            ended = self._clock()
            done.append(call)
            latencies.append(ended - started)
        return _Work(done, latencies, ended - begun)


def _lanes(count: int) -> str:
    return "1 lane" if count == 1 else f"{count} lanes"


def _rows(count: int) -> str:
    return "a text a call" if count == 1 else f"up to {count} texts a call"


def main(bundle: str, engine: str, inputs: str) -> None:
    """Answer orders until standard input ends."""
    given: dict[str, list[str]] = json.loads(Path(inputs).read_text(encoding="utf-8"))
    predictor = load(bundle, engine=engine, all_lanes=True)
    wide = predictor.wide
    if wide is None and len(predictor.lanes) > 1:  # a server's measurement of it, at its start, may be wrong
        wide = load(bundle, engine=engine, threads=usable_cores()).engine
    bare = Bare(predictor, wide, given["texts"])
    kinds: dict[str, Callable[..., Any]] = {
        "closed": bare.closed,
        "right": lambda: bare.right(given["labels"]),
    }
    print("ready", flush=True)
    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line)
        print(json.dumps(kinds[order.pop("kind")](**order)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
