"""Lanes and the wide engine: what a server loads, and that a measurement decides it."""

import dataclasses
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nlpdeploy.bundle.errors import EngineFailed
from nlpdeploy.bundle.specs import Layout
from nlpdeploy.runtime import lanes, load, predictor
from nlpdeploy.runtime.calls import run_rows
from nlpdeploy.runtime.lanes import LayoutChoice, compare_wide, side_by_side, warm_up
from nlpdeploy.runtime.text import Row
from support.engines import TinyEngine, tiny_model
from support.linear_engines import PackedLinearEngine, model
from support.tiny_bundle import publish_tiny_bundle

TWO = LayoutChoice(lanes=2, threads=1, wide=None, reason="")
ROWS = [Row(np.array([2, 4, 5, 3]), np.zeros(4, dtype=np.int64))]


class Paced(TinyEngine):
    """Takes its time by the length of its rows: pauses far apart, so that a busy machine changes no verdict."""

    def __init__(self, lone: float, long: float) -> None:
        super().__init__()
        self.lone, self.long = lone, long

    def run(self, feed):
        time.sleep(self.long if feed["input_ids"].shape[1] > 8 else self.lone)
        return super().run(feed)


@pytest.mark.parametrize(
    ("wide", "pays", "said"),
    [
        (Paced(0.001, 0.001), True, "a lone text in"),
        (Paced(0.2, 0.001), True, "a text of 16 tokens in"),
        (Paced(0.2, 0.2), False, "not clearly faster"),
    ],
)
def test_a_wide_engine_stays_only_where_lone_or_long_texts_gain_clearly(wide, pays, said):
    found = compare_wide(Paced(0.06, 0.06), wide, ROWS, tiny_model(), TWO, threads=2)
    assert found.wide == (2 if pays else None)
    assert said in found.reason
    assert found.lone_ms[0] >= 60
    assert (found.lanes, found.threads, found.long_tokens) == (2, 1, 16)
    assert found.seconds > 0


class Clocked(TinyEngine):
    """Its first calls take so many seconds of a clock that nothing else moves, later ones perhaps others."""

    def __init__(self, clock, *seconds: float) -> None:
        super().__init__()
        self.clock, self.takes = clock, seconds

    def run(self, feed):
        self.clock[0] += self.takes[min(len(self.batches), len(self.takes) - 1)]
        return super().run(feed)


@pytest.mark.parametrize(("disturbed_calls", "wide"), [(4, 2), (8, None)])
def test_a_neighbour_for_a_moment_does_not_decide_for_good(monkeypatch, disturbed_calls, wide):
    clock = [0.0]
    monkeypatch.setattr(lanes, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    disturbed = Clocked(clock, *[0.06] * disturbed_calls, 0.001)
    found = compare_wide(Clocked(clock, 0.02), disturbed, ROWS, tiny_model(), TWO, threads=2)
    assert found.wide == wide
    assert lanes.MEASURE_SECONDS < found.seconds < 3 * lanes.MEASURE_SECONDS


def test_measuring_is_bounded_however_slow_the_engine():
    slow = Paced(0.3, 0.3)
    found = compare_wide(slow, Paced(0.3, 0.3), ROWS, tiny_model(), TWO, threads=2)
    assert len(slow.batches) == 2, "one round, a lone text and a long one, and the time is over"
    assert found.lone_ms is not None


def two_cores(monkeypatch, faster):
    """A machine of two cores on which the wide engine stays or goes; what it measures is decided here."""

    def decide(lane, wide, rows, spec, layout, threads):
        return dataclasses.replace(layout, wide=threads if faster else None, reason="decided by the test")

    monkeypatch.setattr(predictor, "usable_cores", lambda: 2)
    monkeypatch.setattr(predictor, "compare_wide", decide)


def test_a_server_gets_narrow_lanes_and_a_wide_engine_that_answers_alike(tmp_path: Path, monkeypatch) -> None:
    two_cores(monkeypatch, faster=True)
    served = load(publish_tiny_bundle(tmp_path).path, all_lanes=True)
    assert len(served.lanes) == 2
    assert served.layout_choice == LayoutChoice(2, 1, 2, "decided by the test")
    rows = served.encode(["hello", "world"])
    assert run_rows(served.wide, rows, served.model).argmax(axis=1).tolist() == [0, 1]
    served.close()
    with pytest.raises(EngineFailed, match="closed"):
        run_rows(served.wide, rows, served.model)


def test_a_wide_engine_that_does_not_pay_is_closed_again(tmp_path: Path, monkeypatch) -> None:
    two_cores(monkeypatch, faster=False)
    served = load(publish_tiny_bundle(tmp_path).path, all_lanes=True)
    assert (served.wide, served.layout_choice.wide) == (None, None)


def test_lanes_serve_without_a_wide_engine_that_cannot_be_loaded(tmp_path: Path, monkeypatch) -> None:
    two_cores(monkeypatch, faster=True)
    real = predictor.load_engine

    def no_room(entry, folder, options):
        if options.threads == 2:
            raise EngineFailed("no memory for it")
        return real(entry, folder, options)

    monkeypatch.setattr(predictor, "load_engine", no_room)
    served = load(publish_tiny_bundle(tmp_path).path, all_lanes=True)
    assert served.wide is None
    assert "no memory for it" in served.layout_choice.reason
    assert len(served.lanes) == 2


def test_threads_that_were_named_leave_nothing_to_measure(tmp_path: Path, monkeypatch) -> None:
    two_cores(monkeypatch, faster=True)
    served = load(publish_tiny_bundle(tmp_path).path, all_lanes=True, threads=1)
    assert (served.wide, served.layout_choice.threads) == (None, 1)
    assert "the threads were named" in served.layout_choice.reason


def test_a_packed_engine_has_run_every_length_of_its_budget_before_the_first_request():
    engine = PackedLinearEngine()
    warm_up(engine, model(max_length=96))
    assert [length for _, length in engine.calls] == list(range(16, 257, 16))
    padded = TinyEngine()
    warm_up(padded, tiny_model())
    assert padded.batches == []
    assert padded.layout is Layout.PADDED


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_only_runtimes_that_compile_shapes_are_warmed_up(runtime, tmp_path: Path, monkeypatch) -> None:
    warmed: list[str] = []
    monkeypatch.setattr(predictor, "warm_up", lambda engine, model, seconds: warmed.append(runtime))
    monkeypatch.setattr(predictor, "load_engine", lambda entry, folder, options: TinyEngine())
    monkeypatch.setattr(predictor, "usable_cores", lambda: 2)

    def of_runtime(manifest):
        return dataclasses.replace(manifest, engines=(dataclasses.replace(manifest.engines[0], runtime=runtime),))

    load(publish_tiny_bundle(tmp_path, change=of_runtime).path, all_lanes=True, threads=1)
    assert len(warmed) == (2 if runtime == "openvino" else 0)


def test_warming_up_ends_when_its_time_is_over():
    engine = PackedLinearEngine(delay=lambda rows, length: 0.01)
    warm_up(engine, model(max_length=96), 0.0)
    assert len(engine.calls) <= 1


def test_lanes_are_opened_at_once_and_one_that_fails_closes_the_others():
    all_here = threading.Barrier(3, timeout=30)
    opened: list[TinyEngine] = []

    def open_lane() -> TinyEngine:
        if all_here.wait() == 0:
            raise EngineFailed("no memory for it")
        opened.append(TinyEngine())
        return opened[-1]

    with pytest.raises(EngineFailed, match="no memory for it"):
        side_by_side(open_lane, 3)
    assert [engine.closed for engine in opened] == [True, True]
