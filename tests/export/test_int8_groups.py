"""The width of int8 groups follows what a model's own texts lose by it."""

import numpy as np
import pytest

from nlpdeploy.export.builders import BUILDERS, int8_groups
from nlpdeploy.export.checkpoint import load_torch, read_checkpoint
from nlpdeploy.export.graph import export_graph
from nlpdeploy.runtime.openvino import GROUP_SIZE
from nlpdeploy.runtime.text import Row
from support.checkpoints import random_classifier

BUILDER = BUILDERS["openvino-int8-packed"]
ROWS = [
    Row(np.random.default_rng(length).integers(5, 60, length), np.zeros(length, dtype=np.int64))
    for length in (2, 5, 9, 17, 30)
]

pytestmark = pytest.mark.skipif(BUILDER.unavailable() is not None, reason=str(BUILDER.unavailable()))


def _built(folder, spread):
    """The options of the engine of a model whose weights are spread so far."""
    settings = {"hidden": 128, "intermediate_size": 256, "spread": spread}
    checkpoint = read_checkpoint(random_classifier(folder / "checkpoint", **settings))
    (folder / "work").mkdir()
    return BUILDER.build(export_graph(load_torch(checkpoint), checkpoint, folder / "work"), folder, ROWS).options


def test_one_scale_a_token_where_the_texts_lose_little_by_it(tmp_path):
    options = _built(tmp_path, spread=0.05)
    assert options[GROUP_SIZE] == 128
    assert options["groups"].startswith("128: worst error ")
    assert "; " not in options["groups"]


def test_narrower_groups_where_they_lose_more(tmp_path):
    options = _built(tmp_path, spread=0.25)
    assert options[GROUP_SIZE] == 64
    wide, narrow = options["groups"].split("; ")
    assert wide.startswith("128: worst error ")
    assert narrow.startswith("64: worst error ")


def test_a_width_that_openvino_does_not_take_is_not_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(int8_groups, "ROUNDING", 1e6)
    options = _built(tmp_path, spread=0.05)
    assert options[GROUP_SIZE] == 64
    assert options["groups"] == "128: not supported; 64: not supported"
