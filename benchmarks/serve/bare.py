"""The bare engine in a process of its own: no tokenizer, no transport, batches laid out beforehand.

``bare BUNDLE ENGINE TEXTS LABELS`` writes ``ready`` and then answers one order a line, as ``load`` does. What is
``N clients`` for a server is here: always N texts at work, shared among the engine's lanes.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nlpdeploy.runtime.batching import lay_out
from nlpdeploy.runtime.engine import Engine, Feed
from nlpdeploy.runtime.predictor import Predictor, load, run_rows
from nlpdeploy.runtime.text import Row


class Bare:
    """The engine, with all its lanes.

    Args:
        predictor: loaded with all lanes.
        texts: gone through in their order.
    """

    def __init__(self, predictor: Predictor, texts: Sequence[str]) -> None:
        self._predictor = predictor
        self._rows = predictor.encode(texts)
        self._pool = ThreadPoolExecutor(len(predictor.lanes))

    def closed(self, clients: int, seconds: float) -> dict[str, Any]:
        """Batches until the time is over: latencies of the calls, and texts answered."""
        predictor = self._predictor
        lone = getattr(predictor, "wide", None) or predictor.engine
        lanes = [lone] if clients == 1 else list(predictor.lanes)[:clients]
        size = -(-clients // len(lanes))
        feeds = [self._feed(lanes[0], self._rows[i : i + size]) for i in range(0, len(self._rows) - size + 1, size)]
        for lane in lanes:
            lane.run(feeds[0])
        end = time.perf_counter() + seconds
        starts = range(0, len(feeds), max(1, len(feeds) // len(lanes)))
        works = self._pool.map(lambda lane, first: _run(lane, feeds, first, end), lanes, starts)
        latencies = [latency for work in works for latency in work]
        return {"latencies": latencies, "answers": len(latencies) * size}

    def right(self, labels: Sequence[str]) -> int:
        """How many of the texts, each alone, get their label."""
        predictor = self._predictor
        names = predictor.model.labels
        tops = (run_rows(predictor.engine, [row], predictor.model)[0].argmax() for row in self._rows)
        return sum(names[int(top)] == label for top, label in zip(tops, labels, strict=True))

    def _feed(self, engine: Engine, rows: Sequence[Row]) -> Feed:
        return lay_out(rows, engine.layout, engine.inputs, self._predictor.model.pad_id)


def _run(engine: Engine, feeds: Sequence[Feed], first: int, end: float) -> list[float]:
    latencies = []
    for feed in itertools.islice(itertools.cycle(feeds), first, None):
        started = time.perf_counter()
        engine.run(feed)
        ended = time.perf_counter()
        if ended > end:
            break
        latencies.append(ended - started)
    return latencies


def main(bundle: str, engine: str, inputs: str) -> None:
    """Answer orders until standard input ends."""
    given: dict[str, list[str]] = json.loads(Path(inputs).read_text(encoding="utf-8"))
    bare = Bare(load(bundle, engine=engine, all_lanes=True), given["texts"])
    print("ready", flush=True)
    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line)
        kind = order.pop("kind")
        answer = bare.right(given["labels"]) if kind == "right" else bare.closed(**order)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
