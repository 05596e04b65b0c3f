"""What a server measures before it is ready, with engines whose times are known: no clock of this machine decides."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nlpdeploy.bundle.evidence import LatencyCurve
from nlpdeploy.bundle.manifest import GoldenSample
from nlpdeploy.bundle.specs import Layout, TensorSpec
from nlpdeploy.runtime.engine import Feed, Outputs
from nlpdeploy.runtime.text import Row
from nlpdeploy.serve.calibration import PACKED_TOKENS, measure
from nlpdeploy.serve.forecast import DEFAULT_CURVE, Forecast
from nlpdeploy.serve.plane import DataPlane
from support.engines import TinyEngine, tiny_model, tiny_predictor

TRUE = LatencyCurve(base=0.002, per_token=3e-5, per_row=1e-4, per_square=0.0)
SAMPLES = [Row(np.arange(2, 2 + n), np.zeros(n, dtype=np.int64)) for n in (5, 9, 14)]
MODEL = tiny_model(max_length=128)


class Clock:
    """One thread's time: an engine's call moves it on."""

    def __init__(self) -> None:
        self._now = threading.local()

    def __call__(self) -> float:
        return float(getattr(self._now, "seconds", 0.0))

    def pass_by(self, seconds: float) -> None:
        self._now.seconds = self() + seconds


class Timed(TinyEngine):
    """Takes what a curve says, in simulated time; its first call of each shape ten times as long."""

    def __init__(self, clock: Clock, curve: LatencyCurve, layout: Layout) -> None:
        super().__init__()
        self.layout, self.clock, self.curve = layout, clock, curve
        if layout is Layout.PACKED:
            names = ("input_ids", "position_ids", "segment_ids")
            self.inputs = tuple(TensorSpec(name, "INT64", (1, -1)) for name in names)
        self.seen: set[tuple[int, ...]] = set()

    def run(self, feed: Feed) -> Outputs:
        shape = feed["input_ids"].shape
        seconds = self.curve.seconds(shape[0] * shape[1], shape[0])
        self.clock.pass_by(seconds if shape in self.seen else 10 * seconds)
        self.seen.add(shape)
        return {}


def measured(layout: Layout, curve: LatencyCurve, lanes: int = 2) -> list[tuple[int, int, float]]:
    clock = Clock()
    engines = [Timed(clock, curve, layout) for _ in range(lanes)]
    return measure(engines, SAMPLES, MODEL, clock=clock)


@pytest.mark.parametrize("layout", Layout)
def test_calls_of_several_sizes_are_timed_without_the_first_of_each(layout: Layout) -> None:
    points = measured(layout, TRUE)
    assert len(points) >= 5
    for elements, rows, seconds in points:
        assert seconds == pytest.approx(TRUE.seconds(elements, rows))
    if layout is Layout.PACKED:
        assert [(elements, rows) for elements, rows, _ in points] == [(tokens, 1) for tokens in PACKED_TOKENS]


def test_the_measurement_ends_with_its_time_and_has_one_size_at_least() -> None:
    ticks = iter(np.arange(0.0, 1000.0, 0.5).tolist())
    points = measure([TinyEngine()], SAMPLES, MODEL, seconds=0.1, clock=lambda: float(next(ticks)))
    assert len(points) == 1


@pytest.mark.parametrize("layout", Layout)
def test_a_curve_from_another_machine_is_corrected(layout: Layout) -> None:
    half = LatencyCurve(TRUE.base / 2, TRUE.per_token / 2, TRUE.per_row / 2, 0.0)
    forecast = Forecast(half)
    forecast.correct(measured(layout, TRUE))
    assert forecast.correction == pytest.approx(2.0)


@pytest.mark.parametrize("layout", Layout)
def test_an_engine_without_a_curve_gets_one(layout: Layout) -> None:
    forecast = Forecast(None)
    forecast.fit(measured(layout, TRUE))
    for elements, rows in ((48, 1), (96, 1), (208, 1)):
        assert forecast.seconds(elements, rows) == pytest.approx(TRUE.seconds(elements, rows), rel=0.01)


def golden(rows: Sequence[Row]) -> tuple[GoldenSample, ...]:
    return tuple(
        GoldenSample("a text", None, tuple(row.input_ids.tolist()), tuple(row.token_type_ids.tolist()), (0.0,) * 4)
        for row in rows
    )


def test_a_server_measures_all_lanes_before_it_lets_requests_in_and_states_it(tmp_path: Path) -> None:
    lanes = [TinyEngine(seconds=0.002), TinyEngine(seconds=0.002)]

    async def main() -> None:
        plane = DataPlane()
        predictor = tiny_predictor(tmp_path, lanes[0], tiny_model(), others=lanes[1:])
        sample = Row(np.array([2, 5, 3]), np.zeros(3, dtype=np.int64))
        predictor.manifest = replace(predictor.manifest, golden=golden([sample]))
        served = plane.add(predictor)
        await plane.warm()
        assert served.forecast.curve != DEFAULT_CURVE  # the engine has none of its own, so it gets what was measured
        plane.open()
        assert (await plane.predict("tiny", "", {"text": "hello"})).answer["label"] == "hello"
        await plane.drain(1.0)
        assert plane.close()

    asyncio.run(main())
    assert all(len(lane.batches) >= 3 for lane in lanes)
