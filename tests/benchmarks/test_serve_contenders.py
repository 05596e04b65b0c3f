"""Which of a bundle's engines a peer serves, and that its rows are named after it."""

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks.serve import plans
from benchmarks.serve.contenders import OPENVINO, OURS, PEER_WAYS, PEERS, best_engine
from benchmarks.serve.plans import BARE, NotRun, Served
from benchmarks.serve.report import ROWS, expected_ways
from nlpdeploy.bundle.specs import EngineState
from nlpdeploy.runtime.cores import usable_cores
from support.bundles import example_manifest

BF16, F32 = OPENVINO
KEYS = {peer.key: peer for peer in PEERS}


def served(*ready: str, name: str = "intent") -> Served:
    """A model whose bundle has these engines ready, and the other OpenVINO ones skipped."""
    manifest = example_manifest(name)
    entry = manifest.engines[0]
    engines = [dataclasses.replace(entry, id=engine, state=EngineState.READY, file="engines/f") for engine in ready]
    skipped = [e for e in OPENVINO if e not in ready]
    engines += [
        dataclasses.replace(entry, id=e, state=EngineState.SKIPPED, reason="no bf16", file=None) for e in skipped
    ]
    made = dataclasses.replace(manifest, engines=tuple(engines))
    return Served(Path("store"), name, 1, Path("store") / name / "1", made, Path("ckpt"), ready[0])


@pytest.mark.parametrize(
    ("models", "engine"),
    [
        ([served(BF16, F32)], BF16),
        ([served(F32)], F32),
        ([served(BF16, F32), served(F32, name="bert")], F32),
        ([served(BF16), served(BF16, name="bert")], BF16),
    ],
)
def test_a_peer_serves_the_first_engine_that_is_ready_in_all_models_and_its_rows_say_so(models, engine):
    assert best_engine(OPENVINO, models) == engine
    assert KEYS["pytriton-openvino"].on(models).ways == (f"PyTriton, {engine}, gRPC", f"PyTriton, {engine}, HTTP")
    assert KEYS["litserve-split"].on(models).ways == (f"LitServe, {engine}, split",)


@pytest.mark.parametrize("key", [key for key, peer in KEYS.items() if peer.engines])
def test_what_is_started_has_that_engine_and_the_rows_that_were_named(key, tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "RUNS", tmp_path)
    models = [served(F32, "onnx-int8"), served(F32, "onnx-int8", name="bert")]
    peer = KEYS[key].on(models)
    plan = peer.start(models)
    assert tuple(way.name for way in plan.ways) == peer.ways
    settings = json.loads((plan.folder / "settings.json").read_text())
    assert len(settings["models"]) == 2
    assert settings["instances"] == (usable_cores() if key.endswith("split") else 1)


def test_where_no_engine_is_ready_the_start_says_what_is_missing():
    peer = KEYS["litserve"].on([served("onnx-int8")])
    with pytest.raises(NotRun, match=f"bundle intent has no ready {F32}"):
        peer.start([served("onnx-int8")])


def test_all_names_that_rows_can_have_are_in_the_tables():
    models = [served(F32, "onnx-int8")], [served(BF16, "onnx-int8")]
    for peer in PEERS:
        for each in models:
            assert set(peer.on(each).ways) <= set(PEER_WAYS) <= set(ROWS)


def test_expected_are_the_rows_of_the_peers_that_take_part_on_what_they_serve():
    asked = expected_ways([KEYS["pytriton-openvino"], KEYS["torchserve"]], served(F32))
    assert {f"PyTriton, {F32}, gRPC", f"PyTriton, {F32}, HTTP", "TorchServe, eager", BARE, *OURS.ways} <= set(asked)
    assert not [way for way in asked if BF16 in way or "onnx" in way]
