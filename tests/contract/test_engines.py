"""One suite for every engine: what ``runtime/engine.py`` promises holds whatever the runtime."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from nlpdeploy.bundle.errors import EngineFailed
from nlpdeploy.bundle.specs import Layout
from nlpdeploy.export.builders import BUILDERS
from nlpdeploy.export.checkpoint import load_torch, read_checkpoint
from nlpdeploy.export.graph import export_graph
from nlpdeploy.export.reference import TorchReference
from nlpdeploy.runtime.batching import lay_out
from nlpdeploy.runtime.catalogue import load_engine
from nlpdeploy.runtime.engine import EngineOptions
from nlpdeploy.runtime.text import Row
from support.checkpoints import random_classifier

REFERENCE = "torch-fp32"
TOLERANCE = {"fp32": 1e-4, "bf16": 0.05, "int8": 0.1}
"""Of the largest logit."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return read_checkpoint(random_classifier(tmp_path_factory.mktemp("model") / "checkpoint"))


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory):
    """A folder and the entries of every engine that this machine can build."""
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "work").mkdir()
    graph = export_graph(load_torch(checkpoint), checkpoint, folder / "work")
    rows = [row for length in (3, 17, 40) for row in texts(2, length)]
    possible = [builder for builder in BUILDERS.values() if builder.unavailable() is None]
    return folder, {builder.id: builder.build(graph, folder, rows) for builder in possible}


@pytest.fixture(params=[REFERENCE, *BUILDERS])
def engine(request, checkpoint, bundle):
    if request.param == REFERENCE:
        loaded = TorchReference(checkpoint, threads=1)
    else:
        folder, entries = bundle
        if request.param not in entries:
            pytest.skip(BUILDERS[request.param].unavailable())
        loaded = load_engine(entries[request.param], folder, EngineOptions(threads=1))
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def reference(checkpoint):
    return TorchReference(checkpoint, threads=1)


def feed(engine, rows, length, seed=0):
    """As many texts of the same length, in the engine's own layout."""
    return lay_out(texts(rows, length, seed), engine.layout, engine.inputs, 0)


def texts(rows, length, seed=0):
    ids = np.random.default_rng(seed).integers(5, 60, (rows, length))
    return [Row(row, np.zeros(length, dtype=np.int64)) for row in ids]


def packed(engine):
    return engine.layout is Layout.PACKED


def allowed(engine, want):
    precision = BUILDERS[engine.id].precision if engine.id in BUILDERS else "fp32"
    return TOLERANCE[precision] * np.abs(want).max()


def test_it_declares_what_it_takes_and_gives(engine):
    assert packed(engine) == engine.id.endswith("-packed")
    padded_names = ("input_ids", "attention_mask", "token_type_ids")
    packed_names = ("input_ids", "position_ids", "segment_ids", "token_type_ids")
    assert [(spec.name, spec.dtype, spec.shape) for spec in engine.inputs] == (
        [(name, "INT64", (1, -1)) for name in packed_names] + [("first_tokens", "INT64", (-1,))]
        if packed(engine)
        else [(name, "INT64", (-1, -1)) for name in padded_names]
    )
    assert [(spec.name, spec.dtype, spec.shape) for spec in engine.outputs] == [("logits", "FP32", (-1, 4))]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (4, 9), (2, 60)])
def test_it_answers_float32_logits_near_the_reference_in_any_shape(engine, reference, shape):
    want = reference.run(feed(reference, *shape))["logits"]
    got = engine.run(feed(engine, *shape))["logits"]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=allowed(engine, want))


def test_company_changes_no_answer(engine):
    (text,), (longer,), (other,) = texts(1, 6), texts(1, 36, seed=1), texts(1, 1, seed=2)

    def answers(*rows):
        return engine.run(lay_out(rows, engine.layout, engine.inputs, 0))["logits"]

    want = answers(text)
    got = answers(longer, text, other)[1:2]
    np.testing.assert_allclose(got, want, atol=allowed(engine, want) if "bf16" in engine.id else 1e-4)


def test_an_answer_stays_as_it_was_when_the_engine_runs_again(engine):
    first = engine.run(feed(engine, 2, 5))["logits"]
    kept = first.copy()
    engine.run(feed(engine, 2, 5, seed=1))
    np.testing.assert_array_equal(first, kept)


def test_it_takes_arrays_that_are_read_only_or_not_contiguous(engine):
    given = feed(engine, 4, 6)
    want = engine.run(given)["logits"]
    odd = {name: np.asfortranarray(value) for name, value in given.items()}
    if packed(engine):  # of one row both orders are the same: every second element of twice the size
        odd = {name: np.repeat(value, 2, axis=-1)[..., ::2] for name, value in given.items()}
    for value in odd.values():
        value.setflags(write=False)
    np.testing.assert_allclose(engine.run(odd)["logits"], want, atol=1e-6)


def test_any_thread_may_run_it(engine):
    given = feed(engine, 2, 5)
    want = engine.run(given)["logits"]
    answers = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: answers.append(engine.run(given)["logits"]))
        thread.start()
        thread.join()
    assert len(answers) == 3
    for got in answers:
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_what_the_runtime_raises_is_one_line_and_the_engine_lives_on(engine):
    given = feed(engine, 1, 4)
    want = engine.run(given)["logits"]
    broken = {**given, "input_ids": np.full((1, 4), 10**6)}
    if engine.id.startswith(
        "openvino"
    ):  # OpenVINO reads an id without an embedding as zeros; a missing axis it refuses
        broken = {**given, "input_ids": np.ones(4, dtype=np.int64)}
    with pytest.raises(EngineFailed) as caught:
        engine.run(broken)
    assert "\n" not in str(caught.value)
    assert engine.id in str(caught.value)
    np.testing.assert_allclose(engine.run(given)["logits"], want, atol=1e-6)


def test_a_closed_engine_says_so_and_may_be_closed_again(engine):
    engine.close()
    engine.close()
    with pytest.raises(EngineFailed, match="closed"):
        engine.run(feed(engine, 1, 4))


@pytest.mark.parametrize("engine_id", BUILDERS)
def test_a_damaged_file_is_refused_with_the_engines_name(engine_id, bundle, tmp_path):
    _, entries = bundle
    if engine_id not in entries:
        pytest.skip(BUILDERS[engine_id].unavailable())
    file = tmp_path / entries[engine_id].file
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not a model")
    with pytest.raises(EngineFailed, match=engine_id) as caught:
        load_engine(entries[engine_id], tmp_path, EngineOptions(threads=1))
    assert "\n" not in str(caught.value)


def test_an_entry_that_names_other_inputs_than_its_file_is_refused(bundle):
    folder, entries = bundle
    entry = replace(entries["onnx-fp32"], inputs=entries["onnx-fp32"].inputs[:1])
    with pytest.raises(EngineFailed, match="inputs and outputs"):
        load_engine(entry, folder, EngineOptions(threads=1))
