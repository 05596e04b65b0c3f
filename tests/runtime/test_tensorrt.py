"""What the GPU runtime decides before it touches a GPU: files, profiles, devices, providers."""

import hashlib
import importlib.machinery
import json
import sys
import types
from dataclasses import replace

import pytest

from nlpdeploy.bundle.errors import CorruptBundle, EngineFailed, EngineUnavailable, InvalidInput
from nlpdeploy.bundle.manifest import EngineEntry
from nlpdeploy.bundle.specs import EngineState, Layout
from nlpdeploy.runtime import device, onnxruntime_gpu
from nlpdeploy.runtime.catalogue import TENSORRT_PLUG_IN
from nlpdeploy.runtime.device import chosen_device, out_of_memory
from nlpdeploy.runtime.gpus import Gpu, Gpus, find_gpus
from nlpdeploy.runtime.onnxruntime_gpu import choose_provider
from nlpdeploy.runtime.tensorrt import choose_profile, load_engine, read_plan
from support.engines import INPUTS, OUTPUTS
from support.tiny_bundle import write_tiny_graph

ENTRY = EngineEntry(
    "mine", "tensorrt_rtx", "fp16", Layout.PADDED, EngineState.READY, None, "engines/mine/model.engine", INPUTS,
    OUTPUTS, valid_for={"gpu": "sm86"},
)  # fmt: skip
PROFILES = (((1, 1), (1, 64)), ((1, 32), (1, 64)))
A10 = Gpu(0, "NVIDIA A10", (8, 6), 24 << 30)
L4 = Gpu(1, "NVIDIA L4", (8, 9), 24 << 30)


@pytest.fixture
def plan(tmp_path):
    file = tmp_path / "model.engine"
    file.write_bytes(b"a plan")
    sidecar = {
        "sha256": hashlib.sha256(b"a plan").hexdigest(),
        "options": {
            "profiles": [{"rows": [1, 1, 1], "length": [1, 8, 64]}, {"rows": [1, 8, 32], "length": [1, 8, 64]}]
        },
    }
    (tmp_path / "engine.json").write_text(json.dumps(sidecar))
    return file


def seen(monkeypatch, *devices, problem=None):
    monkeypatch.setattr(device, "find_gpus", lambda: Gpus("13.0", devices, problem))


def test_a_plan_is_read_with_its_profiles(plan):
    assert read_plan(ENTRY, plan) == (b"a plan", PROFILES)


def test_a_damaged_plan_never_reaches_the_library(plan):
    plan.write_bytes(b"a plam")
    with pytest.raises(CorruptBundle, match=r"the plan is damaged; found changed: engines/mine/model\.engine"):
        load_engine(ENTRY, plan, None)


@pytest.mark.parametrize("text", ["", "{}", '{"sha256": 1, "options": {"profiles": [{}]}}'])
def test_a_sidecar_that_says_too_little_is_named(plan, text):
    plan.with_name("engine.json").write_text(text)
    with pytest.raises(CorruptBundle, match=r"engines/mine/engine\.json"):
        read_plan(ENTRY, plan)


@pytest.mark.parametrize(("shape", "number"), [((1, 5), 0), ((1, 64), 0), ((2, 5), 1), ((32, 64), 1)])
def test_a_call_takes_the_narrowest_profile_with_room(shape, number):
    assert choose_profile(PROFILES, *shape, engine_id="mine") == number


@pytest.mark.parametrize("shape", [(33, 5), (1, 65)])
def test_a_call_without_a_profile_is_told_what_there_is(shape):
    with pytest.raises(EngineFailed, match=rf"found {shape[0]} rows of {shape[1]} tokens; wanted rows 1 to 1"):
        choose_profile(PROFILES, *shape, engine_id="mine")


def test_a_gpu_of_another_architecture_is_refused_with_the_target_to_export_for(plan, monkeypatch):
    seen(monkeypatch, L4)
    with pytest.raises(EngineUnavailable, match=r"NVIDIA L4.*found sm89; wanted sm86; export with --gpu sm89"):
        load_engine(ENTRY, plan, None)


def test_the_device_is_the_one_of_the_option(monkeypatch):
    seen(monkeypatch, A10, L4)
    monkeypatch.delenv("NLPDEPLOY_GPU", raising=False)
    assert chosen_device("mine") == A10
    monkeypatch.setenv("NLPDEPLOY_GPU", "1")
    assert chosen_device("mine") == L4
    for wrong in ("2", "-1", "x"):
        monkeypatch.setenv("NLPDEPLOY_GPU", wrong)
        with pytest.raises(InvalidInput, match="a number from 0 to 1"):
            chosen_device("mine")


def test_without_a_gpu_the_engine_says_so(plan, monkeypatch):
    seen(monkeypatch, problem="no NVIDIA driver")
    with pytest.raises(EngineUnavailable, match="engine mine needs an NVIDIA GPU; found no NVIDIA driver"):
        load_engine(ENTRY, plan, None)


def test_this_machine_is_described_whatever_it_has():
    found = find_gpus()
    assert (found.problem is None) == bool(found.devices)


@pytest.mark.parametrize("text", ["out of memory", "cudaErrorMemoryAllocation", "Failed to allocate 12 bytes"])
def test_a_full_memory_is_called_so(text):
    assert "memory is full" in out_of_memory("engine mine", text).line()
    assert out_of_memory("engine mine", "invalid argument") is None


@pytest.mark.parametrize("found", [["CPUExecutionProvider"], [], ["CPUExecutionProvider", "CUDAExecutionProvider"]])
def test_a_session_that_fell_back_to_the_cpu_is_a_failure(found):
    with pytest.raises(EngineFailed, match="left its provider"):
        onnxruntime_gpu.check_providers("mine", found, "CUDAExecutionProvider")
    onnxruntime_gpu.check_providers("mine", ["CUDAExecutionProvider", "CPUExecutionProvider"], "CUDAExecutionProvider")


@pytest.mark.skipif(find_gpus().problem is None, reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("runtime", "provider"),
    [("onnxruntime-cuda", "CUDAExecutionProvider"), ("onnxruntime-tensorrt", "TensorrtExecutionProvider")],
)
def test_a_real_session_that_falls_back_in_silence_is_caught_once_it_stands(tmp_path, monkeypatch, runtime, provider):
    """ONNX Runtime is asked for a provider that it can't have: it warns, and runs on the CPU."""
    seen(monkeypatch, A10)
    monkeypatch.setattr(onnxruntime_gpu.ort, "get_available_providers", lambda: [provider, "CPUExecutionProvider"])
    write_tiny_graph(tmp_path / "model.onnx")
    options = dict.fromkeys(("most_rows", "most_length", "usual_rows", "usual_length", "workspace_bytes"), 16)
    with pytest.raises(EngineFailed, match=rf"found CPUExecutionProvider; wanted {provider}; `nlpdeploy doctor`"):
        onnxruntime_gpu.load_engine(replace(ENTRY, runtime=runtime, options=options), tmp_path / "model.onnx", None)


@pytest.mark.parametrize("runtime", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_an_onnxruntime_without_the_provider_is_named(tmp_path, monkeypatch, runtime):
    monkeypatch.setattr(onnxruntime_gpu.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EngineUnavailable, match=r"found CPUExecutionProvider; wanted .*nlpdeploy\[gpu\]"):
        onnxruntime_gpu.load_engine(replace(ENTRY, runtime=runtime), tmp_path / "model.onnx", None)


@pytest.mark.parametrize(
    ("available", "plug_in", "provider"),
    [
        (["TensorrtExecutionProvider", "CUDAExecutionProvider"], True, "TensorrtExecutionProvider"),
        (["CPUExecutionProvider"], True, "NvTensorRTRTXExecutionProvider"),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], False, None),
    ],
)
def test_tensorrt_inside_of_onnxruntime_is_its_own_or_the_plug_in(available, plug_in, provider):
    entry = replace(ENTRY, runtime="onnxruntime-tensorrt")
    if provider is None:
        with pytest.raises(EngineUnavailable, match="wanted TensorrtExecutionProvider or NvTensorRTRTX"):
            choose_provider(entry, available, plug_in=plug_in)
    else:
        assert choose_provider(entry, available, plug_in=plug_in) == provider
    with pytest.raises(EngineUnavailable, match="wanted CUDAExecutionProvider"):
        choose_provider(replace(ENTRY, runtime="onnxruntime-cuda"), ["CPUExecutionProvider"], plug_in=plug_in)


def test_a_plug_in_that_onnxruntime_can_not_load_is_one_line(tmp_path, monkeypatch):
    """As without a driver: the package is there, its library isn't loaded."""
    seen(monkeypatch, A10)
    module = types.ModuleType(TENSORRT_PLUG_IN)
    module.get_library_path = lambda: str(tmp_path / "libonnxruntime_providers_nv_tensorrt_rtx.so")
    module.__spec__ = importlib.machinery.ModuleSpec(TENSORRT_PLUG_IN, None)
    monkeypatch.setitem(sys.modules, TENSORRT_PLUG_IN, module)
    monkeypatch.setattr(onnxruntime_gpu.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    write_tiny_graph(tmp_path / "model.onnx")
    with pytest.raises(EngineUnavailable, match=r"plug-in for TensorRT for RTX can't be loaded; found .*\.so") as error:
        onnxruntime_gpu.load_engine(replace(ENTRY, runtime="onnxruntime-tensorrt"), tmp_path / "model.onnx", None)
    assert "\n" not in error.value.line()


def test_tensorrt_inside_of_onnxruntime_gets_the_shapes_of_the_export():
    options = {"most_rows": 32, "usual_rows": 8, "usual_length": 24, "most_length": 512, "workspace_bytes": 1 << 30}
    entry = replace(ENTRY, runtime="onnxruntime-tensorrt", options=options)
    (name, given), (second, _) = onnxruntime_gpu.provider_options(entry, "TensorrtExecutionProvider", 0)
    assert (name, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    first = INPUTS[0].name
    assert given["trt_profile_min_shapes"].startswith(f"{first}:1x1")
    assert given["trt_profile_opt_shapes"].startswith(f"{first}:8x24")
    assert given["trt_profile_max_shapes"].startswith(f"{first}:32x512")
    assert given["trt_max_workspace_size"] == 1 << 30
