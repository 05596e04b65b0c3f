"""Damage that fools other checks is found in a real checkpoint, and mended by few nodes in fp32."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from nlpdeploy.bundle.errors import EngineFailed
from nlpdeploy.bundle.specs import Layout
from nlpdeploy.export.assemble import write_tokenizer
from nlpdeploy.export.checkpoint import load_torch, read_checkpoint
from nlpdeploy.export.corpus import read_corpus
from nlpdeploy.export.emulate import EmulatedEngine, Emulator
from nlpdeploy.export.graph import export_standard
from nlpdeploy.export.parity import engine_answers, judge_parity, parity_grid, reference_answers
from nlpdeploy.export.passes.files import save_ir
from nlpdeploy.export.passes.half import to_half
from nlpdeploy.export.passes.standard import all_nodes, load_standard
from nlpdeploy.export.precision import choose_precision
from nlpdeploy.runtime.batching import lay_out
from support import faults
from support.shared import SHARED, needs_shared

pytestmark = [needs_shared, pytest.mark.shared]
TEXTS, LONGEST_CASE = 40, 128


class Real:
    """The banking77 checkpoint: its graph, its texts, and answers of a graph of it."""

    def __init__(self, folder):
        checkpoint = read_checkpoint(SHARED / "checkpoints/banking77-minilm")
        self.model, self.file = checkpoint.model, folder / "fp32.onnx"
        export_standard(load_torch(checkpoint), checkpoint, self.file)
        encoder = write_tokenizer(folder, checkpoint)
        data = SHARED / "data/banking77/test.csv"
        corpus = read_corpus(data, self.model, text_column="text", label_column="category", limit=TEXTS)
        self.rows = encoder.encode(corpus.texts)
        grid = parity_grid(encoder, corpus.texts, None, self.model)
        self.grid = [case for case in grid if len(case.rows) * max(map(len, case.rows)) <= LONGEST_CASE]

    def graph(self):
        return load_standard(self.file)

    def answers(self, graph):
        """Of the fp32 graph itself, each row alone."""
        every = [node.name for node in all_nodes(graph)]
        reference, _ = Emulator(graph, "fp16", engine_id="fp32").engine(every)
        return reference_answers(reference, self.grid, self.rows, self.model)

    def feed(self, rows, inputs):
        return lay_out(rows, Layout.PADDED, inputs, self.model.pad_id)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return Real(tmp_path_factory.mktemp("real"))


def test_a_sound_checkpoint_needs_no_node_in_fp32(real):
    choice = choose_precision(real.file, real.answers(real.graph()), real.model)
    assert (choice.keep_fp32, choice.half_alone, choice.evaluations) == ((), None, 2)
    assert choice.parity.passed
    assert choice.parity.agreement == 1.0
    assert choice.lines() == ("fp16: no node needs fp32 (2 evaluations, emulated)",)
    assert "not" in choice.to_plain()["limits"]


def own_run(real, half):
    """ONNX Runtime's own run of the half graph on the real rows, with nothing optimised."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = ir.serde.serialize_model(half).SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    inputs = EmulatedEngine(half, "fp16", engine_id="names").inputs
    return np.concatenate([session.run(["logits"], real.feed([row], inputs))[0] for row in real.rows[:32]])


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("overflowing_values", marks=pytest.mark.slow),
        pytest.param("overflowing_feed_forward", marks=pytest.mark.slow),
        "overflowing_variance",
        pytest.param("vanishing_vectors", marks=pytest.mark.slow),
    ],
)
def test_damage_is_found_and_the_guilty_nodes_alone_stay_fp32(real, tmp_path, damage):
    graph = real.graph()
    guilty = getattr(faults, damage)(graph)
    save_ir(graph, tmp_path / "fp32.onnx")
    answers = real.answers(graph)
    half, _ = to_half(graph)
    emulated = EmulatedEngine(half, "fp16", engine_id="tensorrt-fp16")
    found = emulated.run(real.feed(real.rows[:32], emulated.inputs))["logits"]
    own = own_run(real, half)
    if damage == "overflowing_values":
        # A look at one text, or at the first row of a batch, sees nothing.
        assert np.isfinite(own).all(axis=1).any()
        assert np.isfinite(found).all(axis=1).any()
    else:
        # ONNX Runtime calls it sound.
        assert (own.argmax(1) == answers.logits[:32].argmax(1)).mean() > 0.9
    if damage in ("overflowing_variance", "vanishing_vectors"):
        # No NaN anywhere, and every label of a real text may be wrong.
        assert np.isfinite(found).all()
        assert (found.argmax(1) == answers.logits[:32].argmax(1)).mean() < 0.2

    choice = choose_precision(tmp_path / "fp32.onnx", answers, real.model)
    assert guilty <= set(choice.keep_fp32)
    assert len(choice.keep_fp32) <= 0.05 * choice.nodes
    assert choice.evaluations < 40
    assert choice.minimal
    assert choice.parity.passed
    assert choice.half_alone
    assert all(node.range and node.without for node in choice.kept)
    assert [entry["node"] for entry in choice.to_plain()["keep_fp32"]] == list(choice.keep_fp32)


def test_a_batch_of_which_only_the_first_row_is_finite_fails_with_the_count(real):
    graph = real.graph()
    faults.overflowing_values(graph)
    answers = real.answers(graph)
    engine = EmulatedEngine(to_half(graph)[0], "fp16", engine_id="tensorrt-fp16")
    finite = [np.isfinite(engine.run(real.feed([row], engine.inputs))["logits"]).all() for row in real.rows]
    first = finite.index(True)
    others = [i for i, fine in enumerate(finite) if not fine][:3]
    assert len(others) == 3
    chosen = [first, *others]
    case = type(answers.grid[0])("batch 4", tuple(real.rows[i] for i in chosen))
    batch = reference_answers(Emulator(graph, "fp16", engine_id="fp32").engine(
        [node.name for node in all_nodes(graph)]
    )[0], [case], [real.rows[first]], real.model)  # fmt: skip
    parity = judge_parity(engine_answers(engine, batch, real.model), "fp16", batch, real.model)
    assert not parity.passed
    assert parity.reason == "batch 4: NaN in 3 of 4 rows"


def test_where_no_set_of_nodes_helps_it_is_said_with_the_numbers(real):
    answers = real.answers(real.graph())
    with pytest.raises(EngineFailed, match=r"half precision, emulated; found .* sets of nodes tried in fp32"):
        choose_precision(real.file, answers, real.model, tolerance=1e-12, most_evaluations=4)
