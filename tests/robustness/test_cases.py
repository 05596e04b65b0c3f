"""Two failures of other servers, with their own numbers, over both fronts at once."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.asking import FRONTS, ask, question
from support.engines import KEYWORDS, LABELS, TinyEngine, token
from support.fronts import serving_fronts, until


@pytest.mark.parametrize("most", [1, 5])
def test_64_concurrent_requests_get_their_own_id_and_rows_and_no_others(most, tmp_path):
    """A merged batch must not be handed to one of its callers."""
    chance = random.Random(23)
    asked = [[chance.randrange(len(LABELS)) for _ in range(chance.randint(1, most))] for _ in range(64)]
    with serving_fronts(tmp_path, TinyEngine(seconds=0.005)) as server, ThreadPoolExecutor(64) as callers:

        def one(index):
            front = FRONTS[index % 2]
            texts = [KEYWORDS[label] for label in asked[index]]
            request = question(texts, id=f"r{index}", outputs=("label", "score", "scores", "logits", "tokens"))
            return ask(front, getattr(server, f"{front}_port"), request)

        ends = list(callers.map(one, range(64)))
        assert max(map(len, server.engine.batches)) > most  # requests did run together
    for index, end in enumerate(ends):
        assert end.id == f"r{index}"
        assert end.outputs["label"] == [LABELS[label] for label in asked[index]]
        assert {len(values) for values in end.outputs.values()} == {len(asked[index])}
        assert {len(row) for row in [*end.outputs["scores"], *end.outputs["logits"]]} == {len(LABELS)}


@pytest.mark.parametrize("front", FRONTS)
def test_a_time_limit_of_200_ms_is_told_while_the_engine_is_busy_and_the_text_is_never_run(front, tmp_path):
    """A waiting request hears of its timeout when it passes, not when the engine comes back."""
    gate = threading.Event()
    with serving_fronts(tmp_path, TinyEngine(gate=gate)) as server, ThreadPoolExecutor(1) as callers:
        port = getattr(server, f"{front}_port")
        first = callers.submit(ask, front, port, question(["hello"]))
        assert until(lambda: server.engine.batches)
        started = time.monotonic()
        second = ask(front, port, question(["world"], parameters={"timeout": 200_000}))
        assert second.is_(504)
        assert time.monotonic() - started >= 0.2
        gate.set()
        assert first.result(10).outputs["label"] == ["hello"]
        assert ask(front, port, question(["note"], parameters={"timeout": 20_000_000})).outputs["label"] == ["note"]
        assert all(token("world") not in row for batch in server.engine.batches for row in batch)
