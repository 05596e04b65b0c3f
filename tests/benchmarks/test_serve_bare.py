"""The bare engine as a limit: how it lays texts out, and that it runs them in the fastest way. No clock but its own."""

import threading

import pytest

from benchmarks.serve.bare import Bare
from support.engines import TinyEngine, tiny_predictor

SHORT, LONG = "hello", "hello world note hello world note hello world note"
TEXTS = [SHORT, LONG] * 8


class Clock:
    """Seconds that only engines let pass."""

    def __init__(self) -> None:
        self.now = 0.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def let_pass(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds


class Timed(TinyEngine):
    """Takes so many seconds a call, and so many more for each element of it, padding included."""

    def __init__(self, clock: Clock, call: float, element: float = 0.0) -> None:
        super().__init__()
        self.clock, self.call, self.element = clock, call, element

    def run(self, feed):
        self.clock.let_pass(self.call + self.element * feed["input_ids"].size)
        return super().run(feed)


def bare(folder, clock, *engines, wide=None) -> Bare:
    first, *others = engines
    return Bare(tiny_predictor(folder, first, others=others), wide, TEXTS, clock)


def test_texts_of_like_length_go_together_and_never_more_than_a_lanes_share(tmp_path):
    clock = Clock()
    engines = [Timed(clock, 0.01) for _ in range(2)]
    bare(tmp_path, clock, *engines).closed(clients=8, seconds=1.0)
    batches = [batch for engine in engines for batch in engine.batches]
    assert max(map(len, batches)) == 4
    assert all(len({len(row) for row in batch}) == 1 for batch in batches)


@pytest.mark.parametrize(
    ("call", "element", "chosen"),
    [(0.01, 0.0, "1 lane, up to 8 texts a call"), (0.0, 0.001, "1 lane, a text a call")],
)
def test_as_many_go_into_a_call_as_are_fastest(tmp_path, call, element, chosen):
    clock = Clock()
    # Where a call of one text costs least for each element, more texts a call gain nothing, and the first is taken.
    subject = bare(tmp_path, clock, Timed(clock, call, element))
    assert subject.closed(clients=8, seconds=1.0)["setup"] == chosen


@pytest.mark.parametrize(("lane", "wide", "chosen"), [(0.02, 0.01, "one engine on all cores"), (0.01, 0.02, "1 lane")])
def test_a_lone_text_is_run_by_whichever_is_faster(tmp_path, lane, wide, chosen):
    clock = Clock()
    subject = bare(tmp_path, clock, Timed(clock, lane), Timed(clock, lane), wide=Timed(clock, wide))
    found = subject.closed(clients=1, seconds=1.0)
    assert found["setup"] == f"{chosen}, a text a call"
    assert found["latencies"] == pytest.approx([0.01] * len(found["latencies"]))


def test_the_rate_is_of_whole_calls(tmp_path):
    clock = Clock()
    found = bare(tmp_path, clock, Timed(clock, 0.4)).closed(clients=1, seconds=1.0)
    assert found["answers"] == len(found["latencies"]) == 3
    assert found["rate"] == pytest.approx(1 / 0.4)


def test_one_text_a_call_goes_through_the_texts_in_their_order(tmp_path):
    clock = Clock()
    engine = Timed(clock, 0.1)
    bare(tmp_path, clock, engine).closed(clients=1, seconds=1.55)  # 16 calls, after those that warm it up
    lengths = [len(row) for (row,) in engine.batches[-16:]]
    assert lengths == lengths[:2] * 8
    assert lengths[0] < lengths[1]


def test_a_short_slice_sees_short_and_long_texts_alike(tmp_path):
    clock = Clock()
    engine = Timed(clock, 0.1)
    texts = [" ".join(["hello"] * (1 + number % 12)) for number in range(96)]
    Bare(tiny_predictor(tmp_path, engine), None, texts, clock).closed(clients=2, seconds=0.75)
    lengths = [len(row) for batch in engine.batches[-8:] for row in batch]
    assert len(engine.batches) > 8
    assert sum(lengths) / len(lengths) == pytest.approx(8.5, abs=1.5)
    assert max(lengths) - min(lengths) >= 8
