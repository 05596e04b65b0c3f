"""Failures of load tests that people reported elsewhere, through the command line against servers that behave so."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from nlpdeploy.loadtest.samples import read_samples
from support.null_server import NullServer, null_server

TEXTS = ("Where is my card?", "I lost my card", "Wo ist meine Karte?")
WARM_UP = 11  # requests before the first that counts: the first answer and each worker's warm-up


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "texts.csv"
    path.write_text("text\n" + "".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    return path


def loadtest(
    server: NullServer, data: Path, folder: Path, *flags: str, transport: str = "grpc"
) -> tuple[int, dict[str, Any]]:
    """The exit status and the printed object of ``nlpdeploy loadtest run``."""
    command = [sys.executable, "-m", "nlpdeploy.cli", "loadtest", "run", "--url", server.url(transport), "--json"]
    command += ["--model", "intent", "--data", str(data), "--run-dir", str(folder), "--arrivals", "constant", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 10, 11, 12), done.stderr
    return done.returncode, json.loads(done.stdout)


def refuted(status: int, result: dict[str, Any]) -> bool:
    """Exit status 10; or, on a machine too busy for the client, 12 for that reason and no other. Never a pass."""
    if status == 12:
        return "the client was the bottleneck" in result["reasons"][0]
    return (status, result["verdict"]) == (10, "REFUTED")


def test_a_server_frozen_for_two_of_ten_seconds_is_refuted_with_a_p95_of_what_was_left_of_them(
    tmp_path: Path, data: Path
) -> None:
    """Each request due while the server stood still waits for the end of it: 50 of 1,000 for all but half a second."""
    frozen = []

    def freeze(folder: Path) -> None:
        while not [path for path in folder.glob("samples-*.bin") if path.stat().st_size > 200]:
            time.sleep(0.01)
        time.sleep(4.0)
        os.kill(server.pid, signal.SIGSTOP)
        began = time.monotonic()
        time.sleep(2.0)
        os.kill(server.pid, signal.SIGCONT)
        frozen.append(time.monotonic() - began)

    with null_server("--delay-ms", "5") as server:
        folder = tmp_path / "run"
        freezer = threading.Thread(target=freeze, args=(folder,))
        freezer.start()
        flags = ("--rate", "100", "--seconds", "10", "--timeout", "5s")
        status, result = loadtest(
            server, data, folder, *flags, "--target", "p95=45ms", "--target", "p99=4s", transport="http"
        )
        freezer.join()
    assert refuted(status, result), result["reasons"]
    p95, p99 = (target["observed_ms"] / 1e3 for target in result["targets"])
    # Thawed, the server has some 200 answers to give at once; how long that takes is the machine's affair.
    samples = read_samples(folder)
    late = samples.ended[samples.latency > 0.3]
    catching_up = float(late.max() - late.min())
    assert p95 == pytest.approx(frozen[0] - 0.5, abs=0.03 * 1.5 + catching_up)
    assert p99 == pytest.approx(frozen[0] - 0.1, abs=0.03 * 1.9 + catching_up)
    assert (result["sent"], result["ok"]) == (1000, 1000)


def test_six_of_a_hundred_at_45_4_ms_are_over_45_ms_and_too_few_to_say(tmp_path: Path, data: Path) -> None:
    slow = {8, 24, 40, 56, 72, 88}
    delays = ["45.4" if at in slow else "10" for at in range(100)]
    delays = delays[-WARM_UP:] + delays[:-WARM_UP]  # so that the first that counts is the first of the script
    with null_server("--delays-ms", ",".join(delays)) as server:
        flags = ("--rate", "20", "--seconds", "5", "--target", "p95=45ms")
        status, result = loadtest(server, data, tmp_path / "run", *flags)
    (target,) = result["targets"]
    assert status in (11, 12), result["reasons"]  # never a pass; on a busy machine the client may say that it was late
    assert target["observed_ms"] > 45.4
    assert target["over"] >= 6
    assert target["samples"] == 100


@pytest.mark.parametrize("status_line", ["200 OK", "429 Too Many Requests"])
def test_every_tenth_answer_bad_is_refuted_and_the_books_balance(tmp_path: Path, data: Path, status_line: str) -> None:
    with null_server("--error-share", "0.1", "--error-status", status_line) as server:
        flags = ("--rate", "250", "--seconds", "4", "--target", "p95=500ms", "--target", "errors=5%")
        status, result = loadtest(server, data, tmp_path / "run", *flags)
    assert refuted(status, result), result["reasons"]
    assert result["sent"] == 1000 == result["ok"] + result["failed"]
    assert result["failed"] in (99, 100, 101)  # the warm-up takes its own tenth


def test_a_server_against_itself_is_never_called_faster_and_the_drawn_order_is_listed(
    tmp_path: Path, data: Path
) -> None:
    with null_server("--delay-ms", "5") as server:
        flags = ("--rate", "100", "--seconds", "4", "--pairs", "4", "--baseline", server.url("grpc"))
        status, result = loadtest(server, data, tmp_path / "run", *flags, "--target", "p95=200ms")
    baseline = result["baseline"]
    assert status in (0, 12), result["reasons"]
    assert baseline["finding"] in ("no difference shown", "not comparable")
    assert sorted(baseline["order"]) == ["baseline"] * 4 + ["candidate"] * 4
    assert [each["metric"] for each in baseline["quantiles"]] == ["p95", "p50", "p99"]
