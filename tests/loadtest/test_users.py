"""Locust started by hand: ``locust -f loadtest/locustfile.py``, and what the timer under it is worth."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.null_server import null_server

LOCUSTFILE = Path(__file__).resolve().parents[2] / "loadtest" / "locustfile.py"


def locust(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary", *flags]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("one\ntwo\nthree and more\n")
    return path


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_plain_locust_sends_one_schedule_whatever_the_number_of_users(
    tmp_path: Path, data: Path, transport: str
) -> None:
    schedule = ("--model", "intent", "--data", str(data), "--rate", "50", "--seconds", "1", "--arrivals", "constant")
    with null_server() as server:
        flags = (
            "--host",
            server.url(transport),
            "--users",
            "3",
            "--spawn-rate",
            "3",
            "--json-file",
            "s",
        )
        done = locust(tmp_path, *flags, *schedule)
        received = len(server.received())
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "s.json").read_text())
    assert (row["name"], row["num_requests"], row["num_failures"]) == ("intent", 50, 0)
    assert received == 50 + 10 + 1  # the schedule, the warm-up, the first answer
    assert "this further one does nothing" in done.stderr


def test_plain_locust_says_in_one_line_what_is_wrong(tmp_path: Path, data: Path) -> None:
    done = locust(tmp_path, "--host", "http://127.0.0.1:1", "--model", "m", "--data", "none.csv")
    assert "the generator failed: data file none.csv; found no such file" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


ALARM = """
import sys, time
import gevent
from nlpdeploy.loadtest.alarm import Alarm

woken = []
def sleeper(due):
    with Alarm() as alarm:
        alarm.wait_until(due)
        woken.append((due, time.monotonic()))

start = time.monotonic()
greenlets = [gevent.spawn(sleeper, start + offset) for offset in (0.05, 0.0213, -1.0, 0.0, 0.0217)]
gevent.joinall(greenlets, raise_error=True)
assert sorted(round(due - start, 4) for due, _ in woken) == [-1.0, 0.0, 0.0213, 0.0217, 0.05], woken
assert all(now >= due for due, now in woken), woken
with Alarm() as alarm:
    waiting = gevent.spawn(alarm.wait_until, time.monotonic() + 60)
    gevent.sleep(0.01)
    waiting.kill()
    before = time.monotonic()
    alarm.wait_until(before + 0.01)
    assert 0.01 <= time.monotonic() - before < 30
print("good")
"""


def test_an_alarm_wakes_everybody_and_nobody_early_and_survives_a_killed_sleeper() -> None:
    # In a process of its own: gevent is for Locust's processes only.
    done = subprocess.run([sys.executable, "-c", ALARM], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "good", done.stderr
