import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlpdeploy.bundle.errors import EngineFailed
from nlpdeploy.bundle.evidence import LatencyCurve
from nlpdeploy.bundle.specs import Layout, TensorSpec
from nlpdeploy.runtime.batching import PACK_MULTIPLE, call_size, lay_out, plan
from nlpdeploy.runtime.text import Row

INPUTS = tuple(TensorSpec(name, "INT64", (-1, -1)) for name in ("input_ids", "attention_mask", "token_type_ids"))


def row(*ids, types=None):
    return Row(np.array(ids, dtype=np.int64), np.array(types or [0] * len(ids), dtype=np.int64))


@given(
    st.lists(st.integers(1, 512), max_size=60),
    st.integers(1, 4096),
    st.integers(1, 32),
)
def test_a_plan_has_each_row_once_within_the_budget(lengths, max_tokens, max_rows):
    batches = plan(lengths, max_tokens=max_tokens, max_rows=max_rows)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= max_rows
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= max_tokens


def test_rows_of_like_length_go_together():
    assert plan([500, 3, 490, 4], max_tokens=1000, max_rows=8) == [[1, 3], [2, 0]]


def seconds(batches, lengths, curve):
    """What a call costs besides its tokens counts twice."""
    return len(batches) * curve.base + sum(
        curve.seconds(*call_size([lengths[i] for i in batch], Layout.PADDED)) for batch in batches
    )


@given(
    st.lists(st.integers(1, 60), max_size=8), st.integers(1, 200), st.integers(1, 8),
    st.floats(0, 1e-2), st.floats(1e-6, 1e-3), st.floats(0, 1e-5),
)  # fmt: skip
def test_with_a_curve_no_other_cuts_of_the_sorted_rows_take_less_time(
    lengths, max_tokens, max_rows, base, per_token, per_square
):
    curve = LatencyCurve(base, per_token, 0.0, per_square)
    batches = plan(lengths, max_tokens=max_tokens, max_rows=max_rows, curve=curve)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    every = []
    for cuts in itertools.product([False, True], repeat=max(0, len(order) - 1)):
        split = [[order[0]]] if order else []
        for index, cut in zip(order[1:], cuts, strict=True):
            split.append([index]) if cut else split[-1].append(index)
        sizes = [(len(batch), len(batch) * max(lengths[i] for i in batch)) for batch in split]
        if all(rows == 1 or (rows <= max_rows and elements <= max_tokens) for rows, elements in sizes):
            every.append(seconds(split, lengths, curve))
    assert seconds(batches, lengths, curve) == pytest.approx(min(every))
    for batch in batches:
        assert len(batch) <= max_rows
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= max_tokens


def test_a_long_row_does_not_pad_seven_short_ones_unless_a_call_costs_more():
    lengths = [6, 60, 7, 8, 6, 7, 8, 6]
    cheap_calls = LatencyCurve(base=1e-3, per_token=1e-4, per_row=0.0, per_square=0.0)
    dear_calls = LatencyCurve(base=1.0, per_token=1e-4, per_row=0.0, per_square=0.0)
    assert [len(b) for b in plan(lengths, max_tokens=4096, max_rows=32, curve=cheap_calls)] == [7, 1]
    assert [len(b) for b in plan(lengths, max_tokens=4096, max_rows=32, curve=dear_calls)] == [8]


def test_padded_rows_get_the_pad_id_a_mask_and_segment_zero():
    feed = lay_out([row(7, 8, 9, types=[0, 1, 1]), row(5)], Layout.PADDED, INPUTS, pad_id=1)
    assert feed["input_ids"].tolist() == [[7, 8, 9], [5, 1, 1]]
    assert feed["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert feed["token_type_ids"].tolist() == [[0, 1, 1], [0, 0, 0]]
    assert all(tensor.dtype == np.int64 for tensor in feed.values())


def test_a_graph_is_fed_only_the_inputs_it_declares():
    assert set(lay_out([row(7)], Layout.PADDED, INPUTS[:2], pad_id=0)) == {"input_ids", "attention_mask"}


def test_an_input_that_rows_do_not_have_is_refused_by_name():
    with pytest.raises(EngineFailed, match="pixel_values"):
        lay_out([row(7)], Layout.PADDED, [TensorSpec("pixel_values", "FP32", (-1,))], pad_id=0)


def test_a_padded_call_is_rows_by_longest():
    assert call_size([5, 9, 3], Layout.PADDED) == (27, 3)


def test_a_packed_call_is_one_row_of_all_tokens_rounded_up():
    assert call_size([5, 9, 3], Layout.PACKED) == (32, 1)
    assert call_size([16], Layout.PACKED) == (16, 1)


@given(st.lists(st.integers(1, 512), max_size=60), st.integers(1, 1024), st.integers(1, 32))
def test_packed_batches_keep_the_order_of_arrival_within_both_budgets(lengths, max_tokens, max_rows):
    batches = plan(lengths, max_tokens=max_tokens, max_rows=max_rows, layout=Layout.PACKED)
    assert [index for batch in batches for index in batch] == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= max_rows
        assert len(batch) == 1 or call_size([lengths[i] for i in batch], Layout.PACKED)[0] <= max_tokens


def test_the_packed_budget_counts_the_pads_that_round_a_row_up():
    assert plan([15, 15, 5], max_tokens=35, max_rows=8, layout=Layout.PACKED) == [[0, 1], [2]]


PACKED = tuple(
    TensorSpec(name, "INT64", (1, -1)) for name in ("input_ids", "position_ids", "segment_ids", "token_type_ids")
)
FIRST = TensorSpec("first_tokens", "INT64", (-1,))


def test_packed_rows_share_one_row_with_their_own_positions_and_segments():
    feed = lay_out([row(7, 8, 9, types=[0, 1, 1]), row(5), row(6, 4)], Layout.PACKED, (*PACKED, FIRST), pad_id=1)
    pads = 10
    assert feed["input_ids"].tolist() == [[7, 8, 9, 5, 6, 4] + [1] * pads]
    assert feed["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1] + [0] * pads]
    assert feed["segment_ids"].tolist() == [[0, 0, 0, 1, 2, 2] + [-1] * pads]
    assert feed["token_type_ids"].tolist() == [[0, 1, 1, 0, 0, 0] + [0] * pads]
    assert feed["first_tokens"].tolist() == [0, 3, 4]
    assert feed["input_ids"].shape[1] % PACK_MULTIPLE == 0
    assert all(tensor.dtype == np.int64 for tensor in feed.values())


def test_a_packed_graph_has_no_attention_mask():
    with pytest.raises(EngineFailed, match="attention_mask"):
        lay_out([row(7)], Layout.PACKED, INPUTS, pad_id=0)
