"""An engine that stops answering after its proof: it fails with its reason, the others are timed and may serve."""

from __future__ import annotations

import pytest

from nlpdeploy.bundle.errors import EngineFailed
from nlpdeploy.bundle.manifest import EngineEntry
from nlpdeploy.bundle.specs import EngineState, Layout
from nlpdeploy.export.bench import Bench
from nlpdeploy.export.checkpoint import read_checkpoint
from nlpdeploy.export.corpus import built_in_corpus
from nlpdeploy.export.pipeline import _time
from support.checkpoints import const_head
from support.linear_engines import LinearEngine, raising, rows_of


def weary(calls):
    """Answers so many calls, then raises."""
    left = iter(range(calls))

    def answer(logits, feed):
        return logits if next(left, None) is not None else raising(logits, feed)

    return answer


def raising_on_long(logits, feed):
    """Answers what is timed, but not the longest rows of the curve."""
    return logits if feed["input_ids"].shape[1] < 60 else raising(logits, feed)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return read_checkpoint(const_head(tmp_path_factory.mktemp("checkpoint"), [0.0, 1.0, 2.0]))


def timed(checkpoint, folder, reference, **passed):
    bench = Bench(
        checkpoint, built_in_corpus(checkpoint.model), rows_of(folder), reference, answers=None, accuracy=None,
        passed=passed,
    )  # fmt: skip
    entries = []
    for name in passed:
        file = folder / "engines" / name / "model.onnx"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"graph")
        entries.append(
            EngineEntry(
                name, "linear", "fp32", Layout.PADDED, EngineState.READY, file=str(file.relative_to(folder))
            )
        )  # fmt: skip
    return {e.id: e for e in _time(entries, bench, folder, 0.1, lambda stage, done, total: None)[0]}


@pytest.mark.parametrize("spoil", [weary(5), raising_on_long])
def test_an_engine_that_raises_while_timed_fails_and_the_others_are_timed(checkpoint, tmp_path, spoil):
    reference, good = LinearEngine("torch-fp32"), LinearEngine("good")
    entries = timed(checkpoint, tmp_path, reference, good=good, broken=LinearEngine("broken", change=spoil))
    assert entries["broken"].state is EngineState.FAILED
    assert "ran out of memory" in entries["broken"].reason
    assert entries["broken"].file is None
    assert entries["broken"].latency is None
    assert not (tmp_path / "engines/broken").exists()
    assert entries["good"].state is EngineState.READY
    assert entries["good"].latency.samples >= 20
    assert entries["good"].curve.points
    assert (tmp_path / entries["good"].file).exists()


def test_a_checkpoint_that_raises_while_timed_ends_the_export(checkpoint, tmp_path):
    with pytest.raises(EngineFailed, match="ran out of memory"):
        timed(checkpoint, tmp_path, LinearEngine("torch-fp32", change=raising), good=LinearEngine("good"))
