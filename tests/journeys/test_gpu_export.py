"""Engines for a GPU that is not here, through the command line: built, published unproven, and what can go wrong."""

import contextlib
import html
import io
import json
import os
import resource
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from nlpdeploy.bundle.specs import EngineState
from nlpdeploy.bundle.store import Store
from nlpdeploy.cli.main import main
from nlpdeploy.export.builders import tensorrt as builders
from nlpdeploy.export.witness import cpu_capabilities
from nlpdeploy.runtime.gpus import find_gpus
from support.checkpoints import random_classifier
from support.cli import COMMAND, one_line

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is missing: pip install 'nlpdeploy[rtx]'")

HALF, FULL = "tensorrt-rtx-fp16-sm86", "tensorrt-rtx-fp32-sm86"
away = pytest.mark.skipif(find_gpus().problem is None, reason="this machine has a GPU")


def run(*words):
    """Status, and what a person sees."""
    shown = io.StringIO()
    with contextlib.redirect_stderr(shown):
        status = main([str(word) for word in words])
    return status, shown.getvalue()


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A checkpoint, the words of an export of it, and the first such export. Half alone passes for it: no search."""
    folder = tmp_path_factory.mktemp("gpu")
    checkpoint = random_classifier(folder / "shop", layers=1, hidden=32, spread=0.4)
    texts = folder / "texts.csv"
    texts.write_text("text\n" + "".join(f"where is order number {number}?\n" for number in range(12)))
    words = ["export", checkpoint, "--name", "shop", "--data", texts, "--timing-seconds", 0.1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NLPDEPLOY_CACHE", str(folder / "cache"))
        first = [*words, "--store", folder / "store", "--engines", "onnx-fp32", "--gpu", "sm86"]
        yield SimpleNamespace(words=words, first=first, store=Store(folder / "store"), folder=folder, done=run(*first))


def test_an_engine_for_a_gpu_elsewhere_is_published_unproven_and_the_status_is_0(shop):
    status, shown = shop.done
    assert status == 0
    manifest = shop.store.manifest("shop:1")
    entry = manifest.engine(HALF)
    assert (entry.state, entry.valid_for["gpu"]) == (EngineState.UNPROVEN, "sm86")
    assert entry.parity.passed
    assert entry.options["parity"].startswith("emulated")
    assert entry.options["rebuild"].startswith("nlpdeploy export ")
    assert manifest.default_engine == "onnx-fp32"
    assert "`nlpdeploy models prove shop` on a machine with sm86 proves it" in shown
    assert f"{HALF}: built now; " in shown
    evidence = shop.store.resolve("shop:1").path / "evidence"
    assert (evidence / f"layers-{HALF}.txt").read_text().startswith("Layers:")
    found = json.loads((evidence / "precision-fp16.json").read_text())
    assert found["emulated"]["passed"]
    assert (found["keep_fp32"], found["headroom"]) == ([], [])
    assert found["witness"]["asked"] == ("FP16" in cpu_capabilities())
    report = html.unescape((evidence / "report.html").read_text())
    assert entry.options["layers"] in report
    for line in ("fp16: no node needs fp32 (2 evaluations, emulated)", str(entry.options["graph"]).splitlines()[-1]):
        assert line in shown.splitlines()
        assert line in report
    assert "second witness" in line
    assert "unproven" in report
    shop.store.verify("shop:1")


def test_a_second_export_builds_nothing_again_and_says_so(shop, monkeypatch):
    def build(*_):
        raise AssertionError("it was built again")

    monkeypatch.setattr(builders, "build_plan", build)
    status, shown = run(*shop.first, "--no-promote")
    assert status == 0
    assert f"{HALF}: taken from the cache: graph, options, builder and target are the same; " in shown
    plans = [shop.store.resolve(f"shop:{v}").path / "engines" / HALF / "model.engine" for v in (1, 2)]
    assert plans[0].read_bytes() == plans[1].read_bytes()


@away
def test_proving_it_without_the_gpu_is_one_line_and_status_3(shop):
    before = shop.store.versions("shop")
    status, shown = run("models", "prove", "shop:1", "--store", shop.store.root)
    assert status == 3
    assert f"wanted a machine for one of {HALF}" in one_line(shown)
    assert shop.store.versions("shop") == before


def test_a_damaged_engine_is_named_before_anything_loads_it(shop):
    plan = shop.store.resolve("shop:1").path / "engines" / HALF / "model.engine"
    whole = plan.read_bytes()
    plan.chmod(0o644)
    plan.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        before = shop.store.versions("shop")
        status, shown = run("models", "prove", "shop:1", "--store", shop.store.root)
        assert status == 2
        assert f"changed: engines/{HALF}/model.engine" in one_line(shown)
        assert shop.store.versions("shop") == before
    finally:
        plan.write_bytes(whole)


def test_a_missing_library_is_named_with_the_line_that_installs_it(shop, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    status, shown = run(*shop.words, "--store", tmp_path / "store", "--engines", "openvino-f32", "--gpu", "sm86")
    assert status == 3
    assert f"nothing is published without {HALF}, which was asked for: skipped" in shown
    assert "pip install 'nlpdeploy[rtx]'" in shown
    assert not Store(tmp_path / "store").names()


def test_a_disk_that_fills_up_while_the_engine_is_written_is_one_line(shop, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))  # room for the graph, not for the plan
    try:
        status, shown = run(*shop.words, "--store", tmp_path / "store", "--engines", FULL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 2
    lines = [line for line in shown.splitlines() if line.startswith("nlpdeploy export")]
    assert "too little space for the engine; found File too large; wanted" in one_line(lines)
    left = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert not [path for path in left if path.suffix in (".engine", ".onnx", ".json")]


def test_ctrl_c_while_it_is_built_ends_the_command_with_130_and_nothing_stays(shop, tmp_path, monkeypatch):
    told = []

    def build(file, options, progress):
        def tell(stage, done, total):
            told.append(done)
            if done == 2:
                os.kill(os.getpid(), signal.SIGINT)

        return builders_build(file, options, tell)

    builders_build = builders.build_plan
    monkeypatch.setattr(builders, "build_plan", build)
    monkeypatch.setenv("NLPDEPLOY_CACHE", str(tmp_path / "cache"))
    status, shown = run(*shop.words, "--store", tmp_path / "store", "--engines", FULL)
    assert status == 130
    assert told[:2] == [1, 2]
    assert shown.splitlines()[-1] == "nlpdeploy export: interrupted"
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".engine", ".onnx", ".json")]


@pytest.mark.slow
def test_ctrl_c_at_a_terminal_ends_the_process_while_it_builds(shop, tmp_path):
    ours, theirs = os.openpty()
    engines = ",".join(f"tensorrt-rtx-fp32-{target}" for target in ("sm86", "sm89", "sm120", "sm80"))
    environment = {**os.environ, "NLPDEPLOY_CACHE": str(tmp_path / "cache"), "TERM": "xterm", "COLUMNS": "100"}
    words = [*COMMAND, *map(str, shop.words), "--store", str(tmp_path / "store"), "--engines", engines]
    process = subprocess.Popen(words, stdout=theirs, stderr=theirs, env=environment, start_new_session=True)
    shown = b""
    while b"building with tensorrt_rtx" not in shown:
        shown += os.read(ours, 1 << 16)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    os.close(ours)
    os.close(theirs)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".onnx", ".json")]
