"""Our histograms read as the library's own do, value by value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from nlpdeploy.serve.histogram import HistogramVector

BOUNDS = (0.001, 0.045, 0.12, 1.0)


@given(st.lists(st.sampled_from(BOUNDS) | st.floats(0, 2), max_size=40))
def test_a_page_of_ours_is_that_of_the_library(values):
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    mine = HistogramVector("x_seconds", "text", ("model",), BOUNDS, ours).labels("a")
    other = Histogram("x_seconds", "text", ("model",), buckets=BOUNDS, registry=theirs).labels("a")
    for value in values:
        mine.observe(value)
        other.observe(value)
    shown = [line for line in generate_latest(theirs).decode().splitlines() if "_created" not in line]
    assert generate_latest(ours).decode().splitlines() == shown


def test_labels_name_one_series_and_must_be_as_many_as_said():
    vector = HistogramVector("x_seconds", "text", ("model", "stage"), BOUNDS, CollectorRegistry())
    assert vector.labels("a", "b") is vector.labels("a", "b")
    assert vector.labels("a", "b") is not vector.labels("a", "c")
    with pytest.raises(ValueError, match="labels"):
        vector.labels("a")


def test_a_name_can_be_registered_once():
    registry = CollectorRegistry()
    HistogramVector("x_seconds", "text", (), BOUNDS, registry)
    with pytest.raises(ValueError, match="x_seconds"):
        HistogramVector("x_seconds", "text", (), BOUNDS, registry)
