"""Which engine serves."""

from __future__ import annotations

import pytest

from nlpdeploy.bundle.errors import ParityFailed
from nlpdeploy.bundle.evidence import Accuracy, Latency
from nlpdeploy.bundle.manifest import EngineEntry
from nlpdeploy.bundle.specs import EngineState, Layout
from nlpdeploy.export.choice import choose


def entry(name, p50=None, drop=None, state=EngineState.READY, reason=None, *, rate=800.0):
    return EngineEntry(
        name, "onnxruntime", "fp32", Layout.PADDED, state, reason,
        accuracy=None if drop is None else Accuracy(1000, 0.9 - drop, 0.9, drop, drop + 0.01),
        latency=None if p50 is None else Latency(p50, 2 * p50, 5 / p50, rate, 100),
    )  # fmt: skip


def test_the_fastest_that_keeps_the_accuracy_serves():
    chosen, reason = choose(
        [entry("fp32", 1.7, 0.0), entry("int8", 1.0, 0.004), entry("int4", 0.5, 0.02)], max_accuracy_drop=0.005
    )
    assert chosen == "int8"
    assert "p50 1.00 ms" in reason
    assert "5.0 x" in reason
    assert "0.8960" in reason
    assert "-0.0040" in reason
    assert "int4 is faster but loses 0.0200" in reason


def test_an_engine_that_is_a_little_slower_alone_and_much_faster_under_load_serves():
    chosen, reason = choose([entry("int8", 1.6, rate=600), entry("packed", 2.0, rate=1250)], max_accuracy_drop=0.005)
    assert chosen == "packed"
    assert "the best of 2 that may, alone and under load" in reason
    assert "0.80 ms of a core a text in batches" in reason
    assert "int8 is faster alone (1.60 ms) but takes 2.1 x the time in batches" in reason


def test_a_gain_under_load_that_costs_more_alone_does_not_decide():
    engines = [entry("int8", 1.0, rate=1000), entry("batched", 3.0, rate=2000)]
    chosen, reason = choose(engines, max_accuracy_drop=0.005)
    assert chosen == "int8"
    assert "batched is faster in batches (0.50 ms) but takes 3.0 x the time alone" in reason
    # The order is one of ratios: a machine of half the speed chooses alike.
    slower = [entry("int8", 2.0, rate=500), entry("batched", 6.0, rate=1000)]
    assert choose(slower, max_accuracy_drop=0.005)[0] == "int8"


def test_a_drop_of_exactly_the_limit_is_allowed():
    assert choose([entry("fp32", 2.0, 0.0), entry("int8", 1.0, 5 / 1000)], max_accuracy_drop=0.005)[0] == "int8"


def test_without_labels_speed_alone_decides_and_the_reason_says_so():
    chosen, reason = choose([entry("fp32", 1.7), entry("int8", 1.0)], max_accuracy_drop=0.005)
    assert chosen == "int8"
    assert "accuracy was not measured" in reason


def test_failed_engines_never_serve_however_fast():
    engines = [entry("int8", 0.1, 0.0, EngineState.FAILED, "NaN in 3 of 4 rows"), entry("fp32", 1.7, 0.0)]
    chosen, reason = choose(engines, max_accuracy_drop=0.005)
    assert chosen == "fp32"
    assert "the only engine that may" in reason


def test_equals_are_decided_by_order():
    assert choose([entry("first", 1.0), entry("second", 1.0)], max_accuracy_drop=0.0)[0] == "first"


def test_where_none_may_serve_each_one_is_named_with_its_reason():
    engines = [
        entry("int8", 1.0, 0.03),
        entry("fp16", None, None, EngineState.FAILED, "NaN in 3 of 4 rows"),
        entry("trt", None, None, EngineState.SKIPPED, "no GPU"),
    ]
    with pytest.raises(ParityFailed) as raised:
        choose(engines, max_accuracy_drop=0.005)
    for word in ("int8: loses 0.0300", "fp16: failed, NaN in 3 of 4 rows", "trt: skipped, no GPU", "0.005"):
        assert word in raised.value.line()
