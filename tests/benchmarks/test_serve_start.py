"""The serving benchmark is no part of CI; that it starts, and what it says of wrong input, is."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.serve", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)


def test_help_names_the_options():
    ended = run("--help")
    assert ended.returncode == 0
    wanted = {"--quick", "--prepare", "--parts", "--peers", "--store", "--model", "--data", "--engine"}
    assert wanted <= set(ended.stdout.replace("[", " ").split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "mian"], "found mian"),
        (["--peers", "triton"], "found triton"),
        (["--clients", "0"], "--clients"),
        (["--store", "nowhere"], "--store and --model"),
        (["--store", "nowhere", "--model", "m"], "nowhere"),
    ],
)
def test_wrong_input_gets_one_line_and_status_2(arguments, message):
    ended = run(*arguments)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
