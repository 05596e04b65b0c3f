"""An engine built for other hardware is proven where it runs: by the checkpoint's answers that travel in the bundle."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from nlpdeploy.bundle.errors import CorruptBundle, EngineUnavailable, InvalidInput, NotFound, ParityFailed
from nlpdeploy.bundle.specs import EngineState
from nlpdeploy.bundle.store import Store
from nlpdeploy.cli.main import main
from nlpdeploy.export.answers import ReferenceAnswers
from nlpdeploy.export.grid import Case
from nlpdeploy.export.prove import prove
from nlpdeploy.export.replay import NAME, read_replay, write_replay
from nlpdeploy.runtime import load
from nlpdeploy.runtime.predictor import golden_row
from support.tiny_bundle import publish_tiny_bundle


def answers_of(manifest, shift=0.0):
    rows = tuple(golden_row(sample.input_ids, sample.token_type_ids) for sample in manifest.golden)
    logits = np.array([sample.logits for sample in manifest.golden], np.float32) + np.float32(shift)
    grid = (Case("batch 1", rows[:1]), Case("batch 2", rows[1:3], beyond_task=True))
    return ReferenceAnswers(grid, (logits[:1], logits[1:3]), rows, logits, 1e-6, ("batch 9",))


def unproven(root, shift=0.0, **changes):
    """A bundle with an engine that serves and the same one again, as if it had been built for hardware elsewhere."""
    first = publish_tiny_bundle(root)
    store = Store(root)
    manifest = store.manifest("tiny")
    entry = manifest.engines[0]
    there = replace(
        entry, id="there", state=EngineState.UNPROVEN, reason="built for sm86",
        options={"parity": "emulated", "build": "built now"}, **changes,
    )  # fmt: skip
    with store.staging("tiny") as staging:
        shutil.copytree(first.path, staging.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("bundle.json"))
        (staging.path / "evidence").mkdir(exist_ok=True)
        (staging.path / "evidence/parity.json").write_text("{}")
        write_replay(staging.path, answers_of(manifest, shift))
        store.publish(staging, replace(manifest, engines=(entry, there), files={}, digest=""))
    return store


def test_the_answers_in_the_bundle_are_those_that_were_written(tmp_path):
    store = unproven(tmp_path)
    folder = store.resolve("tiny").path
    want, got = answers_of(store.manifest("tiny")), read_replay(folder)
    assert (got.dropped, got.noise_floor) == (want.dropped, want.noise_floor)
    assert np.array_equal(got.logits, want.logits)
    assert [(case.name, len(case.rows), case.beyond_task) for case in got.grid] == [
        ("batch 1", 1, False),
        ("batch 2", 2, True),
    ]
    for one, other in zip(got.rows, want.rows, strict=True):
        assert one.input_ids.tolist() == other.input_ids.tolist()
    (folder / NAME).write_bytes(b"damaged")
    with pytest.raises(CorruptBundle, match="replay"):
        read_replay(folder)
    (folder / NAME).unlink()
    with pytest.raises(NotFound, match="export the checkpoint again"):
        read_replay(folder)


def test_an_unproven_engine_is_not_served_and_a_proven_one_is(tmp_path):
    store = unproven(tmp_path)
    before = store.manifest("tiny")
    with pytest.raises(EngineUnavailable, match="there is unproven"):
        load(store.resolve("tiny").path, engine="there")
    proof = prove(store, "tiny")
    assert (proof.proven, proof.elsewhere) == (("there",), {})
    assert proof.manifest.derived_from == before.digest
    assert proof.reference.version == 3
    entry = proof.manifest.engine("there")
    assert (entry.state, entry.reason) == (EngineState.READY, None)
    assert entry.options["parity"].startswith("on the hardware")
    assert entry.parity.rows == len(before.golden)
    assert entry.curve.points
    store.verify("tiny")
    cases = json.loads((proof.reference.path / "evidence/parity.json").read_text())["there"]["cases"]
    assert {case["name"] for case in cases} >= {"batch 1", "batch 2"}
    answer = load(proof.reference.path, engine="there")(["hello"])
    assert answer[0].label == load(proof.reference.path, engine="onnx-fp32")(["hello"])[0].label
    assert store.manifest("tiny:2").engine("there").state is EngineState.UNPROVEN
    with pytest.raises(InvalidInput, match="no unproven engine"):
        prove(store, "tiny")


def test_an_engine_that_answers_otherwise_on_its_hardware_is_not_published(tmp_path):
    store = unproven(tmp_path, shift=0.5)
    with pytest.raises(ParityFailed, match="there on this machine"):
        prove(store, "tiny")
    assert store.versions("tiny") == [1, 2]


def test_without_the_hardware_it_is_one_line_and_status_3(tmp_path, capsys):
    store = unproven(tmp_path, runtime="abacus")
    assert main(["models", "prove", "tiny", "--store", str(tmp_path)]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "none of its unproven engines runs on this machine" in lines[0]
    assert store.versions("tiny") == [1, 2]


def test_the_command_tells_what_was_proven(tmp_path, capsys):
    unproven(tmp_path)
    assert (
        main(["models", "prove", "tiny", "--engine", "there", "--no-promote", "--store", str(tmp_path), "--json"]) == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert (result["bundle"], result["proven"], result["unproven"]) == ("tiny/3", ["there"], {})
    assert Store(tmp_path).resolve("tiny").version == 2
    assert main(["models", "prove", "tiny", "--engine", "onnx-fp32", "--store", str(tmp_path)]) == 2
