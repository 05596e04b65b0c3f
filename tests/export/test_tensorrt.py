"""TensorRT for RTX really builds here, without a GPU; what it lets pass or says badly is one clear line."""

import hashlib
import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from nlpdeploy.bundle.errors import EngineFailed, EngineUnavailable, InvalidInput, StoreFailed
from nlpdeploy.bundle.specs import EngineState, TensorSpec
from nlpdeploy.bundle.store import Store
from nlpdeploy.cli.main import main
from nlpdeploy.export.builders import ahead_ids, find_builder, tensorrt_library
from nlpdeploy.export.builders import tensorrt as builders
from nlpdeploy.export.builders.tensorrt import TypedGraph, ahead_builder
from nlpdeploy.export.builders.tensorrt_build import BuildOptions, build_plan
from nlpdeploy.export.builders.tensorrt_profile import Profile, profiles_of
from nlpdeploy.export.checkpoint import load_torch, read_checkpoint
from nlpdeploy.export.graph import export_standard
from nlpdeploy.export.passes.half import write_half
from nlpdeploy.export.passes.standard import load_standard
from nlpdeploy.export.typed_graphs import _casts_to_fp32, _weights_bytes
from support.checkpoints import random_classifier
from support.shared import SHARED, needs_shared

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is missing: pip install 'nlpdeploy[rtx]'")

PROFILE = Profile((1, 2, 4), (1, 8, 16))
RTX = BuildOptions("tensorrt_rtx", "sm86", (PROFILE,), exact=False)
TEXT = """tiny (int64[n, t] input_ids) => (float[n, 3] logits) {
    x = Gather (table, input_ids)
    y = MatMul (x, w)
    axis = Constant <value = int64[1] {1}> ()
    logits = ReduceMean <keepdims = 0> (y, axis)
}"""


def save(file, text=TEXT, opset=20, domain="", **constants):
    head = f'<ir_version: 9, opset_import: ["" : {opset}{domain}]>\n'
    model = onnx.parser.parse_model(head + text)
    if not constants:
        draw = np.random.default_rng(0)
        constants = {
            "table": draw.normal(size=(11, 8)).astype(np.float32), "w": draw.normal(size=(8, 3)).astype(np.float32),
        }  # fmt: skip
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    onnx.save_model(model, file)
    return file


def typed(file, precision="fp32"):
    """What the builder takes, of a graph of one input."""
    size = _weights_bytes(load_standard(file))
    specs = (TensorSpec("input_ids", "INT64", (-1, -1)),), (TensorSpec("logits", "FP32", (-1, 3)),)
    return TypedGraph(file, *specs, 20, (), (), size, size, precision)


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "graphs").mkdir()
    return save(tmp_path / "graphs" / "tiny.onnx")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NLPDEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tensorrt"


def test_a_tiny_graph_is_built_and_its_table_names_its_nodes(tiny):
    built = build_plan(tiny, RTX)
    assert built.plan[:4] == b"vtrt"
    assert built.layers.startswith("Layers:\n")
    assert "LayerType: gemm" in built.layers


def test_scratch_memory_is_that_of_the_largest_profile():
    """As the log of a build with two profiles has it."""
    log = [(3, "Max Scratch Memory: 35651584 bytes"), (3, "Max Scratch Memory: 1098711040 bytes"), (3, "other")]
    assert tensorrt_library.figure(log, "Max Scratch Memory: ") == 1098711040
    assert tensorrt_library.figure(log, "Total Weights Memory: ") == 0


def test_ids_name_the_precision_and_the_architecture():
    assert ahead_ids(["sm86", "sm120"]) == ("tensorrt-rtx-fp16-sm86", "tensorrt-rtx-fp16-sm120")
    assert find_builder("tensorrt-rtx-fp32-sm89") == ahead_builder("tensorrt-rtx-fp32-sm89")
    assert find_builder("tensorrt-rtx-int8-sm89") is None
    for given in (["sm90"], ["86"], [""], ["sm86", "sm86"], []):
        with pytest.raises(InvalidInput, match=r"--gpu; found .*; wanted (some of sm75, sm80, sm86|each)"):
            ahead_ids(given)
    with pytest.raises(InvalidInput, match="sm90"):
        find_builder("tensorrt-rtx-fp16-sm90")


@pytest.mark.parametrize("target", ["sm90", "none", "x"])
def test_a_wrong_target_is_refused_by_the_build_too(tiny, target):
    with pytest.raises((InvalidInput, EngineFailed), match=target):
        build_plan(tiny, replace(RTX, target=target))


UNIQUE = """g (float[n, t] input_ids) => (float[k] logits) { logits = Unique (input_ids) }"""
FOREIGN = """g (float[n, t] input_ids) => (float[n, t] logits) {
    logits = com.microsoft.FusedMatMul (input_ids, input_ids)
}"""
MIXED = """g (float16[n, t] input_ids, float[n, t] other) => (float[n, t] logits) { logits = Add (input_ids, other) }"""
RANK = """g (float[n] input_ids) => (float[n] logits) { logits = Relu (input_ids) }"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (UNIQUE, "can't parse g.onnx; found node .*Unique.*: no importer for operator Unique"),
        (FOREIGN, "FusedMatMul.*Plugin not found"),
        (MIXED, "Add.*Half and Float"),
        (RANK, r"input input_ids of the graph; found 1 axes; wanted \[rows, length\]"),
    ],
)
def test_what_can_not_be_parsed_is_named_with_its_node(tmp_path, text, words):
    domain = ', "com.microsoft" : 1' if text is FOREIGN else ""
    file = save(tmp_path / "g.onnx", text, domain=domain, unused=np.zeros(1, np.float32))
    with pytest.raises(EngineFailed, match=words) as error:
        build_plan(file, RTX)
    assert "\n" not in error.value.line()


@pytest.mark.parametrize("content", [b"", b"not a graph", None])
def test_a_file_that_is_no_graph_is_one_line(tmp_path, content):
    file = tmp_path / "g.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(EngineFailed, match=r"g\.onnx"):
        build_plan(file, RTX)


def test_an_input_without_a_profile_is_one_line(tiny):
    with pytest.raises(EngineFailed, match="no optimization profile"):
        build_plan(tiny, replace(RTX, profiles=()))


POSITIONS = """positions (int64[n, t] input_ids) => (float[n, t, 8] logits) {
    x = Gather (table, input_ids)
    logits = Add (x, places)
}"""


def test_shapes_past_the_model_s_positions_fail_the_build_which_only_warns(tmp_path):
    """Where the check of the profile itself is passed by: a graph that holds fewer positions than it was told."""
    draw = np.random.default_rng(0)
    table, places = draw.normal(size=(11, 8)).astype(np.float32), draw.normal(size=(1, 16, 8)).astype(np.float32)
    file = save(tmp_path / "g.onnx", POSITIONS, table=table, places=places)
    assert build_plan(file, replace(RTX, profiles=(Profile((1, 2, 4), (1, 16, 16)),))).plan
    with pytest.raises(EngineFailed, match=r"largest shapes contradict the graph; found .*kMAX.*16 != 32"):
        build_plan(file, replace(RTX, profiles=(Profile((1, 2, 4), (1, 16, 32)),)))


def test_too_little_scratch_memory_is_one_line_with_the_flag(tiny):
    with pytest.raises(EngineFailed, match=r"within workspace limit.*; give more with --gpu-workspace") as error:
        build_plan(tiny, replace(RTX, workspace_bytes=1 << 16))
    assert "\n" not in error.value.line()


def test_a_missing_library_is_named_with_the_line_that_installs_it(tiny, monkeypatch):
    def broken(name):
        raise ImportError("libtensorrt_rtx.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(tensorrt_library.importlib, "import_module", broken)
    with pytest.raises(EngineUnavailable, match=r"libtensorrt_rtx\.so\.1.*pip install .*nlpdeploy\[rtx\]"):
        build_plan(tiny, RTX)


def test_too_little_space_is_found_before_the_build(tiny, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(builders.shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(StoreFailed, match="too little space"):
        ahead_builder("tensorrt-rtx-fp32-sm86").build_typed(typed(tiny), tmp_path, (PROFILE,), 16, "again")
    assert not (tmp_path / "engines").exists()


def test_a_second_build_takes_the_first_one_s_and_a_changed_input_does_not(tiny, tmp_path, cache):
    builder = ahead_builder("tensorrt-rtx-fp32-sm86")

    def build(name, graph=tiny, using=builder, profile=PROFILE, **options):
        (tmp_path / name).mkdir()
        made = using.build_typed(typed(graph), tmp_path / name, (profile,), 16, "again", **options)
        return made.options["build"]

    assert build("first") == "built now"
    assert build("second").startswith("taken from the cache")
    plans = [(tmp_path / name / "engines" / builder.id / "model.engine").read_bytes() for name in ("first", "second")]
    assert plans[0] == plans[1]
    assert build("workspace", workspace_bytes=1 << 28) == "built now"
    assert build("length", profile=Profile((1, 2, 4), (1, 8, 12))) == "built now"
    assert build("target", using=ahead_builder("tensorrt-rtx-fp32-sm89")) == "built now"
    other = save(tmp_path / "other.onnx", table=np.ones((11, 8), np.float32), w=np.ones((8, 3), np.float32))
    assert build("graph", graph=other) == "built now"
    for file in cache.glob("*/model.engine"):
        file.write_bytes(b"damaged")
    assert build("damaged") == "built now"


def test_an_entry_and_its_sidecar_say_what_was_built(tiny, tmp_path):
    builder = ahead_builder("tensorrt-rtx-fp32-sm120")
    entry = builder.build_typed(typed(tiny), tmp_path, (PROFILE,), 16, "again --x", workspace_bytes=1 << 28)
    assert (entry.state, entry.runtime, entry.valid_for["gpu"]) == (EngineState.UNPROVEN, "tensorrt_rtx", "sm120")
    plan = tmp_path / entry.file
    sidecar = json.loads(plan.with_name("engine.json").read_text())
    assert sidecar["sha256"] == hashlib.sha256(plan.read_bytes()).hexdigest()
    assert (sidecar["gpu"], sidecar["rebuild"]) == ("sm120", "again --x")
    assert sidecar["builder"].startswith("tensorrt_rtx 1.")
    assert sidecar["options"]["profiles"] == [{"rows": [1, 2, 4], "length": [1, 8, 16]}]
    assert sidecar["options"]["workspace_bytes"] == 1 << 28
    assert (tmp_path / "evidence/layers-tensorrt-rtx-fp32-sm120.txt").read_text().startswith("Layers:")


def test_an_engine_that_is_not_what_it_is_called_fails(tiny, tmp_path):
    with pytest.raises(EngineFailed, match="does not compute in fp16; found 1 of 1 matrix products in Float"):
        ahead_builder("tensorrt-rtx-fp16-sm86").build_typed(typed(tiny), tmp_path, (PROFILE,), 16, "again")


def test_an_interrupt_cancels_the_build(tiny):
    """As Ctrl-C in a terminal: the signal comes while the library builds, and the build is over when it is seen."""
    steps = []

    def tell(stage, done, total):
        steps.append(done)
        if done == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)  # until the caller has seen it

    with pytest.raises(KeyboardInterrupt):
        build_plan(tiny, RTX, tell)
    for thread in threading.enumerate():
        if thread.name == "tensorrt-build":  # its last lines
            thread.join(5)
            assert not thread.is_alive()
    taken = len(steps)
    assert build_plan(tiny, RTX).plan
    whole = []
    build_plan(tiny, RTX, lambda stage, done, total: whole.append(done))
    assert len(steps) == taken < len(whole)


@pytest.mark.slow
@needs_shared
def test_a_real_encoder_in_half_is_half_all_through_and_half_as_large(tmp_path):
    checkpoint = read_checkpoint(SHARED / "checkpoints/banking77-minilm")
    full, half = tmp_path / "standard.onnx", tmp_path / "half.onnx"
    opset = export_standard(load_torch(checkpoint), checkpoint, full)
    write_half(full, half, precision="fp16")
    profiles = profiles_of([12, 14, 20, 33], 512)
    size = _weights_bytes(load_standard(full))
    entries = {}
    for precision, file in (("fp32", full), ("fp16", half)):
        model = load_standard(file)
        graph = TypedGraph(
            file,
            tuple(TensorSpec(name, "INT64", (-1, -1)) for name in checkpoint.inputs),
            (TensorSpec("logits", "FP32", (-1, 77)),),
            opset, (), _casts_to_fp32(model) if precision == "fp16" else (), _weights_bytes(model), size, precision,
        )  # fmt: skip
        builder = ahead_builder(f"tensorrt-rtx-{precision}-sm86")
        entries[precision] = builder.build_typed(graph, tmp_path, profiles, 512, "again")
    assert entries["fp16"].size_bytes <= 0.6 * entries["fp32"].size_bytes
    assert " Float" not in entries["fp16"].options["layers"]
    assert " Half" not in entries["fp32"].options["layers"]


@pytest.mark.parametrize("gpu", ["sm90", "86", ""])
def test_an_export_for_a_gpu_that_can_not_be_built_for_is_one_line_and_status_2(tmp_path, capsys, gpu):
    checkpoint = random_classifier(tmp_path / "shop")
    assert main(["export", str(checkpoint), "--gpu", gpu, "--store", str(tmp_path / "store")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "--gpu; found" in lines[0]
    assert not Store(tmp_path / "store").names()
