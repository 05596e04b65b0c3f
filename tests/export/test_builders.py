"""Builders write what a runtime loads, say what they did, and say why they can't."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest

from nlpdeploy.bundle.errors import EngineFailed, EngineUnavailable, Unsupported
from nlpdeploy.bundle.manifest import EngineEntry, from_plain, to_plain
from nlpdeploy.bundle.specs import EngineState, Layout
from nlpdeploy.export.builders import BUILDERS, GPU_BUILDERS, auto_engines
from nlpdeploy.export.builders import onnx as onnx_builders
from nlpdeploy.export.builders import openvino as openvino_builders
from nlpdeploy.export.builders import openvino_packed as packed_builders
from nlpdeploy.export.checkpoint import load_torch, read_checkpoint
from nlpdeploy.export.graph import export_graph
from nlpdeploy.runtime.text import Row
from support.checkpoints import random_classifier

ROWS = [
    Row(np.random.default_rng(length).integers(5, 60, length), np.zeros(length, dtype=np.int64))
    for length in (1, 2, 5, 9, 17, 30, 44, 60)
]


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    folder = tmp_path_factory.mktemp("builders")
    checkpoint = read_checkpoint(random_classifier(folder / "checkpoint"))
    (folder / "work").mkdir()
    return export_graph(load_torch(checkpoint), checkpoint, folder / "work")


def test_engines_stand_in_the_order_of_the_table():
    assert tuple(BUILDERS) == (
        "onnx-fp32", "onnx-int8", "onnx-int8-packed", "openvino-f32", "openvino-bf16", "openvino-f32-packed",
        "openvino-bf16-packed", "openvino-int8-packed",
    )  # fmt: skip
    assert tuple(GPU_BUILDERS) == ("tensorrt-fp16", "tensorrt-fp32", "onnx-fp16-cuda", "onnx-tensorrt-fp16")
    assert [(builder.runtime, builder.precision) for builder in BUILDERS.values()] == [
        ("onnxruntime", "fp32"),
        ("onnxruntime", "int8"),
        ("onnxruntime", "int8"),
        ("openvino", "fp32"),
        ("openvino", "bf16"),
        ("openvino", "fp32"),
        ("openvino", "bf16"),
        ("openvino", "int8"),
    ]
    assert [builder.id.endswith("-packed") for builder in BUILDERS.values()] == [
        builder.layout is Layout.PACKED for builder in BUILDERS.values()
    ]


@pytest.mark.parametrize("engine_id", BUILDERS)
def test_an_entry_describes_the_files_written(engine_id, graph, tmp_path):
    builder = BUILDERS[engine_id]
    if builder.unavailable():
        pytest.skip(builder.unavailable())
    entry = builder.build(graph, tmp_path, ROWS)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.is_relative_to(tmp_path / "engines" / engine_id) for path in written)
    assert (tmp_path / entry.file) in written
    assert entry.size_bytes == sum(path.stat().st_size for path in written)
    assert (entry.id, entry.state, entry.parity) == (engine_id, EngineState.READY, None)
    assert (entry.layout, entry.outputs) == (builder.layout, graph.outputs)
    if entry.layout is Layout.PADDED:
        assert entry.inputs == graph.inputs
    else:
        assert "8 texts in one row differ from each alone by at most" in entry.options["exporter"]
    if entry.layout is Layout.PADDED or entry.runtime == "onnxruntime":
        assert entry.options["exporter"].startswith("tracer: attention 2 of 2")
    assert from_plain(EngineEntry, to_plain(entry)) == entry


@pytest.mark.parametrize("engine_id", ["onnx-fp32", "onnx-int8"])
def test_a_graph_that_is_not_fused_wholly_is_refused_with_the_counts(engine_id, graph, tmp_path):
    loose = replace(graph, fusion=replace(graph.fusion, attention=0))
    with pytest.raises(EngineFailed, match="attention 0 of 2, normalisation 4 of 4"):
        BUILDERS[engine_id].build(loose, tmp_path, ())
    assert list(tmp_path.iterdir()) == []


def test_an_architecture_that_cannot_be_packed_is_skipped_with_the_reason(graph, tmp_path, monkeypatch):
    def refuse(*given, **named):
        asked.append(given)
        raise Unsupported("packed rows of bert answer otherwise than each text alone", found="a difference of 0.3")

    asked = []
    monkeypatch.setattr(packed_builders, "checked_pack", refuse)
    fresh = replace(graph, file=tmp_path / "tracer" / "model.onnx")
    for engine_id in ("openvino-f32-packed", "openvino-bf16-packed", "openvino-int8-packed"):
        with pytest.raises(EngineUnavailable, match=r"a difference of 0\.3.* padded engines answer these models"):
            BUILDERS[engine_id].build(fresh, tmp_path, ROWS)
    assert len(asked) == 1, "what was found once holds for the other precisions too"
    assert not (tmp_path / "engines").exists()


def test_auto_builds_what_only_stands_in_for_faster_engines_where_those_cannot_be(monkeypatch):
    def left_out(*flags):
        for builders in (openvino_builders, packed_builders):
            monkeypatch.setattr(builders, "instruction_sets", lambda: frozenset(flags))
        return set(BUILDERS) - set(auto_engines())

    assert left_out("avx512_bf16", "avx512_vnni") == {"openvino-f32-packed", "onnx-int8-packed"}
    assert left_out("avx512_vnni") == {"onnx-int8-packed"}
    assert left_out("avx2") == set()
    assert auto_engines() == tuple(BUILDERS)


def test_bf16_needs_a_cpu_that_has_it(monkeypatch):
    monkeypatch.setattr(openvino_builders, "instruction_sets", lambda: frozenset({"avx2", "avx512_vnni"}))
    assert "amx_bf16, avx512_bf16, bf16" in BUILDERS["openvino-bf16"].unavailable()
    assert BUILDERS["openvino-f32"].unavailable() is None
    monkeypatch.setattr(openvino_builders, "instruction_sets", lambda: frozenset({"avx512_bf16"}))
    assert BUILDERS["openvino-bf16"].unavailable() is None


@pytest.mark.parametrize(
    ("flags", "isa", "narrow"),
    [({"avx2", "avx512f", "avx512_vnni"}, "avx512_vnni", False), ({"avx2"}, "avx2", True), ({"asimd"}, "asimd", False)],
)
def test_int8_leaves_headroom_where_the_cpu_would_overflow(flags, isa, narrow, graph, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_builders, "instruction_sets", lambda: frozenset(flags))
    entry = BUILDERS["onnx-int8"].build(graph, tmp_path, ())
    assert entry.valid_for == {"isa": isa}
    assert entry.options["weights"].endswith("adds in 16 bits") == narrow
    model = onnx.load(str(tmp_path / entry.file))
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.data_type == 3]
    pairs = max(int(np.abs(np.add.reduceat(matrix.astype(int), range(0, len(matrix), 2))).max()) for matrix in weights)
    assert (pairs <= 128) == narrow


def test_neither_building_nor_running_reports_to_anyone(graph, tmp_path):
    program = """
import sys
from pathlib import Path
from nlpdeploy.runtime.onnxruntime import ort
from nlpdeploy.runtime.openvino import convert
from nlpdeploy.export.passes.fuse import fuse
file, folder = Path(sys.argv[1]), Path(sys.argv[2])
fuse(file, folder / "fused.onnx", layers=2, hidden_size=64, heads=2)
ort.InferenceSession(str(folder / "fused.onnx"), providers=["CPUExecutionProvider"])
convert(file, folder / "model.xml")
"""
    home = tmp_path / "home"
    home.mkdir()
    unset = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in unset} | {"HOME": str(home)}
    command = [sys.executable, "-c", program, str(graph.file), str(tmp_path)]
    subprocess.run(command, check=True, env=environment, timeout=120)
    assert list(home.rglob("*")) == []
    assert (tmp_path / "model.bin").is_file()


def test_packed_int8_needs_a_cpu_whose_products_are_exact(monkeypatch):
    monkeypatch.setattr(packed_builders, "instruction_sets", lambda: frozenset({"avx2", "avx512f"}))
    assert "amx_int8, avx512_vnni, avx_vnni" in BUILDERS["openvino-int8-packed"].unavailable()
    monkeypatch.setattr(packed_builders, "instruction_sets", lambda: frozenset({"avx512_vnni"}))
    assert BUILDERS["openvino-int8-packed"].unavailable() is None
