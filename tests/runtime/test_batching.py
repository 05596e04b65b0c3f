import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlpdeploy.bundle.errors import EngineFailed, Unsupported
from nlpdeploy.bundle.specs import Layout, TensorSpec
from nlpdeploy.runtime.batching import lay_out, plan
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


def test_a_layout_without_planner_is_refused():
    with pytest.raises(Unsupported, match="packed"):
        lay_out([row(7)], Layout.PACKED, INPUTS, pad_id=0)
