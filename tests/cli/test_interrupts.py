"""Ctrl-C: the right status, no process left, nothing half-written."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from nlpdeploy.bundle.store import Store
from support.checkpoints import random_classifier
from support.cli import alive, descendants, server, start
from support.tiny_bundle import publish_tiny_bundle

SECONDS_TO_END = 30


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return random_classifier(tmp_path_factory.mktemp("checkpoint") / "shop")


def interrupt(process, sent=signal.SIGINT):
    """Send a signal to the command alone, as it must end its children itself; status and output."""
    family = descendants(process.pid)
    process.send_signal(sent)
    try:
        out, err = process.communicate(timeout=SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"did not end within {SECONDS_TO_END} s: {err}") from None
    assert alive(family) == set()
    return process.returncode, out, err


def wait_for(condition, process, seconds=120):
    """Poll until the condition holds; the process must not end before."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def export(checkpoint, store):
    arguments = ["--store", store, "--engines", "onnx-fp32,openvino-f32", "--timing-seconds", "2"]
    return start("export", checkpoint, *arguments)


# What a stage leaves in the staging folder, in order; the last one is reached while engines are timed.
STAGES = {
    "before anything is written": ".staging/*/",
    "while the checkpoint is asked": ".staging/*/tokenizer/tokenizer.json",
    "while the graph is exported": ".staging/*/work",
    "while engines are built": ".staging/*/engines/onnx-fp32/*",
    "while engines are compared and timed": ".staging/*/engines/openvino-f32/*.bin",
    "while the evidence is written": ".staging/*/evidence",
}
SLOW_STAGES = tuple(STAGES)[1:-1]
"""Between two others; the test of SIGTERM stops at the first of them too."""


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(pattern, id=stage, marks=pytest.mark.slow if stage in SLOW_STAGES else ())
        for stage, pattern in STAGES.items()
    ],
)
def test_an_interrupted_export_leaves_whole_bundles_or_none(checkpoint, tmp_path, pattern):
    store = tmp_path / "store"
    process = export(checkpoint, store)
    wait_for(lambda: any(store.glob(pattern)), process)
    status, _, err = interrupt(process)
    published = Store(store).versions("shop")
    if published:  # the signal came after the rename: the bundle is whole
        Store(store).verify("shop")
    assert status == 130 or (status == 0 and published), err
    assert "Traceback" not in err
    assert list((store / ".staging").iterdir()) == []


def test_a_terminated_export_clears_up_too(checkpoint, tmp_path):
    store = tmp_path / "store"
    process = export(checkpoint, store)
    wait_for(lambda: any(store.glob(".staging/*/tokenizer/tokenizer.json")), process)
    status, _, _ = interrupt(process, signal.SIGTERM)
    assert status == 143
    assert list((store / ".staging").iterdir()) == []


def test_a_killed_export_is_cleared_away_by_the_next_one(checkpoint, tmp_path):
    store = tmp_path / "store"
    process = export(checkpoint, store)
    wait_for(lambda: any(store.glob(".staging/*/tokenizer/tokenizer.json")), process)
    process.kill()
    process.communicate()
    assert Store(store).names() == []
    assert list((store / ".staging").iterdir()) != []
    following = export(checkpoint, store)
    _, err = following.communicate(timeout=240)
    assert following.returncode == 0, err
    Store(store).verify("shop:1")
    assert list((store / ".staging").iterdir()) == []


def test_an_interrupted_server_drains_and_ends_with_0(tmp_path):
    publish_tiny_bundle(tmp_path)
    process = start("serve", "--store", tmp_path, "--grpc-port", 0, "--http-port", 0, "--json")
    assert json.loads(process.stdout.readline())["event"] == "ready"
    status, _, err = interrupt(process)
    assert status == 0
    assert "Traceback" not in err


@pytest.mark.parametrize(("sent", "wanted"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_explanation_that_is_interrupted_while_models_are_loaded_says_so(tmp_path, sent, wanted):
    for k in range(40):
        publish_tiny_bundle(tmp_path, f"tiny{k}")
    process = start("serve", "--store", tmp_path, "--explain")
    wait_for(lambda: "onnxruntime" in Path(f"/proc/{process.pid}/maps").read_text(), process)
    status, out, err = interrupt(process, sent)
    assert (status, out) == (wanted, "")
    assert err.strip() == "nlpdeploy serve: interrupted"


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_an_interrupted_load_test_ends_its_processes_and_keeps_what_it_measured(tmp_path, workers):
    publish_tiny_bundle(tmp_path / "store")
    data = tmp_path / "texts.txt"
    data.write_text("hello world\nnote book\n")
    run_dir = tmp_path / "run"
    with server("--store", tmp_path / "store") as ready:
        process = start(
            "loadtest", "run", "--url", f"http://127.0.0.1:{ready['http_port']}", "--model", "tiny", "--data", data,
            "--rate", "50", "--seconds", "60", "--target", "p95=45ms", "--workers", workers, "--run-dir", run_dir,
        )  # fmt: skip
        wait_for(lambda: any(path.stat().st_size > 2000 for path in run_dir.glob("samples-*.bin")), process)
        status, _, err = interrupt(process)
    assert status == 130, err
    assert "Traceback" not in err
    assert json.loads((run_dir / "run.json").read_text())["interrupted"]
    judged = start("loadtest", "judge", run_dir, "--json")
    out, _ = judged.communicate(timeout=60)
    # It says what the part that was measured says, which is never that the target is met.
    result = json.loads(out)
    assert result["interrupted"]
    assert (judged.returncode, result["verdict"]) in ((10, "REFUTED"), (11, "INCONCLUSIVE"), (12, "INVALID"))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("pattern", "children"),
    [
        pytest.param("*", 0, id="while it trains"),
        pytest.param("loadtest-1/samples-*.bin", 3, id="while it load-tests"),
    ],
)
def test_an_interrupted_demo_leaves_no_process(demo_checkpoint, tmp_path, pattern, children):
    folder = tmp_path / "demo"
    if pattern != "*":  # training comes before all else, and takes its time
        shutil.copytree(demo_checkpoint, folder)
    process = start("demo", "--dir", folder, "--seconds", 60, "--timing-seconds", 1)
    wait_for(lambda: any(folder.glob(pattern)) and len(descendants(process.pid)) >= children, process, seconds=300)
    status, _, err = interrupt(process)
    assert status == 130, err
    assert "Traceback" not in err
    assert not list(folder.glob("model_store/.staging/*"))
