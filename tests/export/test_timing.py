"""What is timed and how; no assertion hangs on how fast this machine is, only on pauses of known length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlpdeploy.bundle.curve import curve_of, nnls
from nlpdeploy.bundle.errors import EngineFailed, InvalidInput
from nlpdeploy.bundle.evidence import LatencyCurve
from nlpdeploy.bundle.specs import Layout
from nlpdeploy.export.curve_fit import fit_curve
from nlpdeploy.export.timing import EngineStopped, measure_latency
from nlpdeploy.runtime.batching import call_size
from support.linear_engines import LinearEngine, PackedLinearEngine, model, raising, rows_of

POINTS = [(rows, length) for rows in (1, 2, 4, 8, 16) for length in (4, 16, 64, 256)]
floats = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))  # no curve has numbers near 1e-300


TWICE = (["torch-fp32"] * 2 + ["other"] * 2, ["other"] * 2 + ["torch-fp32"] * 2)


def measure(engines, rows, **options):
    settings_ = {"baseline": "torch-fp32", "budget_seconds": 0.2, "seed": 1} | options
    return measure_latency(engines, rows, model(), **settings_)


def test_the_slower_engine_reads_slower_and_the_baseline_is_one(tmp_path):
    engines = {
        "torch-fp32": LinearEngine(delay=lambda rows, length: 0.012),
        "quick": LinearEngine(),
    }
    latency = measure(engines, rows_of(tmp_path))
    assert latency["torch-fp32"].speedup == 1.0
    assert latency["torch-fp32"].p50_ms >= 12.0
    assert latency["quick"].speedup == latency["torch-fp32"].p50_ms / latency["quick"].p50_ms
    assert latency["quick"].speedup > 1.0
    for value in latency.values():
        assert value.p50_ms <= value.p95_ms
        assert value.samples >= 20
        assert value.texts_per_second > 0


def test_engines_run_the_same_texts_in_changing_order(tmp_path):
    order: list[str] = []

    def noting(name):
        def note(logits, feed):
            order.append((name, feed["input_ids"].tobytes()))
            return logits

        return LinearEngine(name, change=note)

    # Without time: one length to warm up, twenty rounds alone, then batches.
    measure({"torch-fp32": noting("torch-fp32"), "other": noting("other")}, rows_of(tmp_path), budget_seconds=0.0)
    rounds = [order[i : i + 4] for i in range(2, 82, 4)]
    for (name, before), (same, text), (other, before_too), (same_other, text_too) in rounds:
        assert name == same != other == same_other
        assert (before, text) == (before_too, text_too)
    assert {first[0] for first, *_ in rounds} == {"torch-fp32", "other"}
    assert any(first[1] != second[1] for first, second, *_ in rounds)


def test_the_seed_decides_the_texts(tmp_path):
    rows = rows_of(tmp_path)

    def first_calls(seed):
        engine = LinearEngine()
        measure({"torch-fp32": engine}, rows, budget_seconds=0.01, seed=seed)
        return engine.calls[:12]

    assert first_calls(3) == first_calls(3)
    assert first_calls(3) != first_calls(4)


def test_every_timed_length_was_run_before_it_is_timed(tmp_path):
    """A new shape can cost several times a warm one; with no time to warm up only warm lengths are drawn."""
    engine = LinearEngine()
    measure({"torch-fp32": engine}, rows_of(tmp_path), budget_seconds=0.0)
    alone = [length for rows, length in engine.calls if rows == 1]
    assert len(alone) >= 20
    assert len(set(alone)) == 1


def test_batches_are_those_of_the_planner(tmp_path):
    engine = LinearEngine()
    measure({"torch-fp32": engine}, rows_of(tmp_path), budget_seconds=0.3)
    assert max(rows for rows, _ in engine.calls) == 32


def test_windows_of_texts_become_the_batches_of_each_layout(tmp_path):
    padded, packed = LinearEngine(), PackedLinearEngine()
    rows = [row for row in rows_of(tmp_path) for _ in range(3)]
    measure({"torch-fp32": padded, "packed": packed}, rows, budget_seconds=0.0)
    assert max(rows for rows, _ in padded.calls) == 32
    assert 128 < max(length for _, length in packed.calls) <= 256
    assert all(rows == 1 and length % 16 == 0 for rows, length in packed.calls)


def test_batches_are_run_on_the_narrow_engines(tmp_path):
    wide, narrow = LinearEngine(), LinearEngine()
    measure({"torch-fp32": wide}, rows_of(tmp_path), budget_seconds=0.0, narrow=lambda name: narrow)
    assert {rows for rows, _ in wide.calls} == {1}
    assert max(rows for rows, _ in narrow.calls) == 32


def test_an_engine_that_cannot_be_loaded_again_for_the_batches_is_named(tmp_path):
    def narrow(name):
        if name == "broken":
            raise EngineFailed("no memory for it")
        return engines[name]

    engines = {"torch-fp32": LinearEngine(), "broken": LinearEngine()}
    with pytest.raises(EngineStopped, match="no memory for it") as caught:
        measure(engines, rows_of(tmp_path), budget_seconds=0.0, narrow=narrow)
    assert caught.value.engine == "broken"


def test_progress_ends_at_its_total(tmp_path):
    told = []
    measure({"torch-fp32": LinearEngine()}, rows_of(tmp_path), progress=lambda *word: told.append(word))
    assert told[-1][1] == told[-1][2] == 2
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_nothing_to_time_is_refused(tmp_path):
    with pytest.raises(InvalidInput):
        measure({"torch-fp32": LinearEngine()}, [])
    with pytest.raises(InvalidInput, match="torch-fp32"):
        measure({"other": LinearEngine()}, rows_of(tmp_path))


def test_an_engine_that_raises_while_timed_is_named(tmp_path):
    engines = {"torch-fp32": LinearEngine(), "broken": LinearEngine(change=raising)}
    with pytest.raises(EngineStopped, match="while it was timed: runtime ran out of memory") as caught:
        measure(engines, rows_of(tmp_path))
    assert caught.value.engine == "broken"


def test_the_fit_finds_the_coefficients_it_was_made_with():
    true = LatencyCurve(base=9e-4, per_token=1.5e-5, per_row=6e-5, per_square=4e-8)
    curve = curve_of([(rows, length, true.seconds(rows * length, rows)) for rows, length in POINTS])
    for name in ("base", "per_token", "per_row", "per_square"):
        assert getattr(curve, name) == pytest.approx(getattr(true, name), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e-5, 1.0), min_size=len(POINTS), max_size=len(POINTS)))
def test_no_forecast_shrinks_with_more_work_whatever_was_measured(seconds):
    curve = curve_of([(rows, length, value) for (rows, length), value in zip(POINTS, seconds, strict=True)])
    assert min(curve.base, curve.per_token, curve.per_row, curve.per_square) >= 0.0
    assert curve.seconds(8 * 64, 8) <= curve.seconds(8 * 128, 8)
    assert curve.seconds(8 * 64, 8) <= curve.seconds(16 * 64, 16)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(floats, min_size=3, max_size=3), min_size=4, max_size=8),
    st.lists(floats, min_size=8, max_size=8),
    st.lists(st.floats(0, 1e3), min_size=3, max_size=3),
)
def test_no_other_non_negative_solution_is_nearer(matrix, target, other):
    matrix, target = np.array(matrix), np.array(target[: len(matrix)])
    found = nnls(matrix, target)
    assert (found >= 0).all()
    least = np.linalg.norm(matrix @ found - target)
    # Any rival, and small steps away from the solution.
    for rival in (
        np.array(other),
        np.maximum(found + 1e-3, 0),
        np.maximum(found - 1e-3, 0),
        found * 0.99,
        found * 1.01,
    ):
        assert least <= np.linalg.norm(matrix @ rival - target) * (1 + 1e-6) + 1e-6


def test_points_without_time_are_refused():
    with pytest.raises(InvalidInput):
        curve_of([])
    with pytest.raises(InvalidInput):
        curve_of([(1, 8, 0.0)])


def test_a_curve_forecasts_an_engine_of_known_cost(tmp_path):
    engine = LinearEngine(delay=lambda rows, length: 2e-3 + 2e-5 * rows * length)
    curve = fit_curve(engine, rows_of(tmp_path), model(), budget_seconds=1.0)
    assert len(curve.points) >= 6
    assert all(seconds >= 2e-3 for _, _, seconds in curve.points)
    # A pause never ends early: the forecast can be too long on a busy machine, not far too short.
    assert curve.seconds(64, 4) > 2e-3
    assert curve.seconds(1024, 16) > curve.seconds(64, 4)


def test_a_curve_is_measured_within_the_models_limit_and_the_batch_budget(tmp_path):
    engine = LinearEngine()
    curve = fit_curve(engine, rows_of(tmp_path), model(max_length=96), budget_seconds=0.5)
    assert max(length for _, length, _ in curve.points) == 96
    assert max(rows * length for rows, length, _ in curve.points) <= 4096


def test_a_packed_curve_is_measured_over_the_lengths_of_one_row(tmp_path):
    engine = PackedLinearEngine(delay=lambda rows, length: 1e-5 * length)
    curve = fit_curve(engine, rows_of(tmp_path), model(max_length=100), budget_seconds=1.0)
    assert [length for _, length, _ in curve.points] == [16, 32, 48, 64, 96, 112, 256]
    assert {rows for rows, _, _ in curve.points} == {1}
    assert curve.seconds(*call_size([60, 60], Layout.PACKED)) >= 1e-5 * 128 * 0.9


def test_without_time_six_points_are_measured(tmp_path):
    curve = fit_curve(LinearEngine(), rows_of(tmp_path), model(), budget_seconds=0.0)
    assert len(curve.points) == 6
