"""Of the int8 groups that OpenVINO truly computes, the width follows what a model's own texts lose by it."""

from types import SimpleNamespace

import numpy as np
import pytest

from nlpdeploy.bundle.errors import EngineUnavailable
from nlpdeploy.export.builders import BUILDERS, int8_groups
from nlpdeploy.export.builders.int8_groups import offered_widths
from nlpdeploy.export.checkpoint import read_checkpoint
from nlpdeploy.runtime import openvino as runtime
from nlpdeploy.runtime.cores import instruction_sets
from nlpdeploy.runtime.openvino import GROUP_SIZE, takes_groups
from nlpdeploy.runtime.text import Row
from support.checkpoints import random_classifier

BUILDER = BUILDERS["openvino-int8-packed"]
ROWS = [
    Row(np.random.default_rng(length).integers(5, 60, length), np.zeros(length, dtype=np.int64))
    for length in (2, 5, 9, 17, 30)
]

on_vnni = pytest.mark.skipif("amx_int8" in instruction_sets(), reason="which groups are taken was seen on VNNI alone")
pytestmark = pytest.mark.skipif(BUILDER.unavailable() is not None, reason=str(BUILDER.unavailable()))


def _built(folder, spread=0.05, **settings):
    """The options of the engine of a model whose weights are spread so far."""
    sizes = {"hidden": 128, "intermediate_size": 256, **settings}
    checkpoint = read_checkpoint(random_classifier(folder / "checkpoint", spread=spread, **sizes))
    (folder / "work").mkdir()
    graph = SimpleNamespace(checkpoint=checkpoint, file=folder / "work" / "tracer" / "model.onnx")
    return BUILDER.build(graph, folder, ROWS).options


def test_one_scale_a_token_where_the_texts_lose_little_by_it(tmp_path):
    options = _built(tmp_path)
    assert options[GROUP_SIZE] == 128
    assert options["groups"].startswith("128: worst error ")
    assert "; " not in options["groups"]


def test_narrower_groups_where_they_lose_more(tmp_path):
    options = _built(tmp_path, spread=0.25)
    assert options[GROUP_SIZE] == 64
    wide, narrow = options["groups"].split("; ")
    assert wide.startswith("128: worst error ")
    assert narrow.startswith("64: worst error ")


@on_vnni
def test_widths_without_a_large_common_divisor_are_int8_all_the_same(tmp_path):
    options = _built(tmp_path, hidden=120, intermediate_size=200)
    assert options[GROUP_SIZE] == 112


@on_vnni
@pytest.mark.parametrize(
    ("width", "group", "taken"),
    [(312, 304, True), (1200, 304, True), (312, 64, True), (312, 24, False), (312, 312, False), (312, 320, False)],
)
def test_which_groups_openvino_computes_in_int8_is_found_by_trying(width, group, taken):
    assert takes_groups(width, group) is taken


@on_vnni
def test_all_products_of_tinybert_are_offered_groups_that_they_take():
    assert offered_widths("x", [312] * 5 + [1200]) == (304, 256, 128, 64)
    assert offered_widths("x", [384] * 5 + [1536]) == (384, 256, 128, 64)


def test_a_group_that_leaves_one_product_in_floats_is_not_offered(monkeypatch):
    monkeypatch.setattr(runtime, "takes_groups", lambda width, group: width == 256 or group < 128)
    assert offered_widths("x", [128, 256]) == (64,)


def test_states_too_narrow_for_any_group_are_no_int8_engine(tmp_path):
    line = (
        "int8 products of engine openvino-int8-packed in OpenVINO on this CPU; "
        "found states too narrow for a group of 16; wanted all 13, on states of 8, 16 values; onnx-int8 has"
    )
    with pytest.raises(EngineUnavailable, match=line):
        _built(tmp_path, hidden=8, intermediate_size=16)


def test_answers_of_floats_are_not_called_int8(tmp_path, monkeypatch):
    monkeypatch.setattr(int8_groups, "offered_widths", lambda engine_id, widths: (24,))
    with pytest.raises(EngineUnavailable, match="found none with groups of 24; wanted all 13, on states of 128, 256"):
        _built(tmp_path)
