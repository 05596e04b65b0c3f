"""The packed int8 engine takes every product that a checkpoint computes from a text, or says how many it lost."""

from types import SimpleNamespace

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as opset

from nlpdeploy.bundle.errors import EngineFailed
from nlpdeploy.export.builders import BUILDERS
from nlpdeploy.export.checkpoint import read_checkpoint
from nlpdeploy.export.packed import pack
from nlpdeploy.runtime import openvino as runtime
from nlpdeploy.runtime.text import Row
from support.checkpoints import MODEL_TYPES, build, random_classifier, tiny_tokenizer

BUILDER = BUILDERS["openvino-int8-packed"]
ROWS = [
    Row(np.random.default_rng(length).integers(5, 60, length), np.zeros(length, dtype=np.int64))
    for length in (2, 5, 9, 17, 30)
]
PRODUCTS = {"modernbert": 9}
"""Of two layers and the head's inner layer: 6 a layer, but where queries, keys and values are one product."""

needs_int8 = pytest.mark.skipif(BUILDER.unavailable() is not None, reason=str(BUILDER.unavailable()))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_products_are_counted_on_the_checkpoints_own_layers(model_type):
    model = build(model_type, tiny_tokenizer(model_type), classes=4, layers=2, hidden=64, seed=0, spread=0.1)
    packed = pack(model, token_types=getattr(model.config, "type_vocab_size", 0) > 1)
    rows = [Row(row.input_ids % model.config.vocab_size, row.token_type_ids) for row in ROWS]
    assert packed.products(rows, 0, narrowest=64) == PRODUCTS.get(model_type, 13)
    assert packed.products(rows, 0, narrowest=129) == 0
    before = packed.logits(rows, 0)
    np.testing.assert_array_equal(packed.logits(rows, 0), before, err_msg="counting leaves nothing behind")


def _graph(folder, model_type):
    """As much of a graph as packed engines are made from."""
    settings = {"hidden": 128, "intermediate_size": 256, "spread": 0.05}
    checkpoint = read_checkpoint(random_classifier(folder / "checkpoint", model_type=model_type, **settings))
    (folder / "work").mkdir()
    return SimpleNamespace(checkpoint=checkpoint, file=folder / "work" / "tracer" / "model.onnx")


@needs_int8
@pytest.mark.parametrize("model_type", ["albert", "modernbert", "deberta-v2"])
def test_layers_that_are_not_berts_are_taken_whole(model_type, tmp_path):
    entry = BUILDER.build(_graph(tmp_path, model_type), tmp_path, ROWS)
    assert entry.options["quantised"].startswith(f"{PRODUCTS.get(model_type, 13)} matrix products, ")


@needs_int8
def test_a_lost_product_fails_the_engine_with_both_counts(tmp_path, monkeypatch):
    whole = runtime.compress_weights
    monkeypatch.setattr(runtime, "compress_weights", lambda *files, narrowest: whole(*files, narrowest=narrowest)[:-1])
    with pytest.raises(EngineFailed, match="matrix products for int8; found 12; wanted 13, as many as"):
        BUILDER.build(_graph(tmp_path, "bert"), tmp_path, ROWS)


def test_what_is_the_same_for_every_input_stays_as_it_is(tmp_path):
    weights = np.random.default_rng(0).normal(size=(3, 32, 32)).astype(np.float32)
    states = opset.parameter([1, -1, 32], np.float32)
    positions = opset.matmul(opset.constant(weights[0]), opset.constant(weights[1]), False, False)
    answer = opset.add(opset.matmul(states, opset.constant(weights[2]), False, False), positions)
    source, target = tmp_path / "model.xml", tmp_path / "int8.xml"
    ov.save_model(ov.Model([answer], [states]), str(source), compress_to_fp16=False)
    assert runtime.compress_weights(source, target, narrowest=32) == [32]
    halves = 2 * 4 * 32 * 32  # of the other product's operands, float32
    assert halves < target.with_suffix(".bin").stat().st_size < source.with_suffix(".bin").stat().st_size
