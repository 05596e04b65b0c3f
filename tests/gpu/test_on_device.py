"""On a real GPU: engines answer as the checkpoint does, with CUDA graphs and without, in any number of rows."""

import json

import numpy as np
import pytest

from nlpdeploy.bundle.specs import EngineState
from nlpdeploy.bundle.store import Store
from nlpdeploy.export.builders import GPU_BUILDERS
from nlpdeploy.runtime.catalogue import load_engine
from nlpdeploy.runtime.engine import EngineOptions
from nlpdeploy.runtime.gpus import find_gpus
from support.cli import nlpdeploy
from support.shared import SHARED, needs_shared

pytestmark = [
    pytest.mark.gpu,
    needs_shared,
    pytest.mark.skipif(find_gpus().problem is not None, reason=f"needs an NVIDIA GPU: {find_gpus().problem}"),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The bundle's folder, its manifest, and the ids of GPU engines that this machine can build."""
    store = tmp_path_factory.mktemp("gpu")
    ids = [name for name, builder in GPU_BUILDERS.items() if builder.unavailable() is None]
    if not ids:
        pytest.skip("; ".join(str(builder.unavailable()) for builder in GPU_BUILDERS.values()))
    done = nlpdeploy(
        "export", SHARED / "checkpoints/banking77-minilm", "--name", "intent", "--store", store, "--json",
        "--data", SHARED / "data/banking77/test.csv", "--text-column", "text", "--label-column", "category",
        "--engines", ",".join(["onnx-fp32", *ids]), timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bundle"] == "intent/1"
    return Store(store).resolve("intent").path, Store(store).manifest("intent"), ids


@pytest.mark.timeout(1800)
def test_every_engine_answers_as_the_checkpoint_does(exported):
    _, manifest, ids = exported
    for name in ids:
        entry = manifest.engine(name)
        assert entry.state is EngineState.READY
        assert entry.parity.agreement >= 0.995


@pytest.mark.timeout(1800)
def test_graphs_parts_and_changing_shapes_change_no_answer(exported, monkeypatch):
    folder, manifest, ids = exported
    for name in (name for name in ids if name.startswith("tensorrt")):
        entry = manifest.engine(name)
        draw = np.random.default_rng(0)
        engine, plain = (load_engine(entry, folder, EngineOptions(1)) for _ in range(2))
        for rows, length in [(1, 12)] * 5 + [(3, 40)] * 5 + [(1, 12), (70, 20), (32, 512), (1, 1)]:
            ids_ = draw.integers(1000, 20000, (rows, length))
            fill = {"input_ids": ids_, "token_type_ids": np.zeros_like(ids_)}
            feed = {spec.name: fill.get(spec.name, np.ones_like(ids_)) for spec in entry.inputs}
            given = engine.run(feed)["logits"]
            monkeypatch.setenv("NLPDEPLOY_CUDA_GRAPHS", "0")
            wanted = plain.run(feed)["logits"]
            monkeypatch.delenv("NLPDEPLOY_CUDA_GRAPHS")
            assert given.shape == (rows, len(manifest.model.labels))
            np.testing.assert_allclose(given, wanted, atol=1e-3)
        engine.close()
        plain.close()
        engine.close()
