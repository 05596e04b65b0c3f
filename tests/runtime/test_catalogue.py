"""The catalogue names every runtime without importing it, and says what is missing."""

import importlib
from pathlib import Path

import pytest

from nlpdeploy.bundle.errors import EngineFailed, EngineUnavailable
from nlpdeploy.bundle.manifest import EngineEntry
from nlpdeploy.bundle.specs import EngineState, Layout
from nlpdeploy.runtime.catalogue import RUNTIMES, Runtime, load_engine
from nlpdeploy.runtime.engine import EngineOptions
from support.engines import INPUTS, OUTPUTS
from support.tiny_bundle import write_tiny_graph

OPTIONS = EngineOptions(threads=1)


def entry(runtime: str = "onnxruntime", file: str | None = "model.onnx", reason: str | None = None) -> EngineEntry:
    state = EngineState.READY if file else EngineState.SKIPPED
    return EngineEntry("mine", runtime, "fp32", Layout.PADDED, state, reason, file, INPUTS, OUTPUTS)


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=list(RUNTIMES))
def test_each_runtime_has_a_module_that_loads_engines(runtime: Runtime) -> None:
    if not runtime.installed():
        assert runtime.extra in ("gpu", "rtx")  # the rest comes with every setup
        pytest.skip(f"{runtime.package} is missing: {runtime.install_line()}")
    assert callable(importlib.import_module(runtime.module, "nlpdeploy.runtime").load_engine)
    assert runtime.install_line() == f"pip install 'nlpdeploy[{runtime.extra}]'"


def test_an_engine_is_loaded_by_its_entry(tmp_path: Path) -> None:
    write_tiny_graph(tmp_path / "model.onnx")
    engine = load_engine(entry(), tmp_path, OPTIONS)
    assert (engine.id, engine.inputs, engine.outputs) == ("mine", INPUTS, OUTPUTS)
    engine.close()


def test_an_unknown_runtime_is_named_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="found abacus; wanted one of onnxruntime, openvino"):
        load_engine(entry("abacus"), tmp_path, OPTIONS)


def test_a_runtime_whose_package_is_missing_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RUNTIMES, "abacus", Runtime("abacus", "abacus_of_wood", ".abacus", "wood"))
    with pytest.raises(EngineUnavailable, match=r"needs abacus_of_wood; pip install 'nlpdeploy\[wood\]'"):
        load_engine(entry("abacus"), tmp_path, OPTIONS)


def test_an_engine_that_was_not_built_says_why(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="was not built; found skipped: no such hardware"):
        load_engine(entry(file=None, reason="no such hardware"), tmp_path, OPTIONS)


def test_a_file_that_is_no_model_fails_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineFailed, match="engine mine can't be loaded by ONNX Runtime") as failure:
        load_engine(entry(), tmp_path, OPTIONS)
    assert "\n" not in str(failure.value)
