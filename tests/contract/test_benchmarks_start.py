"""The benchmarks are no part of CI; that they start is."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("module", ["benchmarks.run", "benchmarks.soak", "benchmarks.torchserve"])
def test_help_names_the_options_for_a_bundle_of_the_users(module):
    ended = run(module, "--help")
    assert ended.returncode == 0
    assert {"--store", "--model", "--data", "--engine"} <= set(ended.stdout.replace("[", " ").split())


def test_the_sections_are_listed():
    ended = run("benchmarks.run", "--list")
    assert ended.returncode == 0
    names = [line.split()[0] for line in ended.stdout.splitlines()]
    assert names == ["engines", "front", "encode", "overload", "memory"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["enginess"], "found enginess"), (["--store", "nowhere"], "--store and --model"),
     (["--store", "nowhere", "--model", "m"], "nowhere")],
)  # fmt: skip
def test_wrong_input_gets_one_line_and_status_2(arguments, message):
    ended = run("benchmarks.run", *arguments)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
