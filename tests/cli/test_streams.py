"""What goes where: standard output has the answer and nothing else, whoever reads it and in whatever encoding."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from nlpdeploy.cli.main import main
from support.cli import COMMAND, nlpdeploy, one_line
from support.tiny_bundle import publish_tiny_bundle


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    # A space and letters beyond ASCII, as in many a home folder.
    root = tmp_path_factory.mktemp("stores") / "mein Lager 人"
    publish_tiny_bundle(root)
    return root


@pytest.mark.parametrize(
    "arguments",
    [
        ["models", "list"],
        ["models", "show", "tiny"],
        ["models", "verify", "tiny"],
        ["models", "promote", "tiny:1"],
        ["predict", "tiny", "hello", "world"],
        ["doctor"],
    ],
)
def test_json_is_all_there_is_on_standard_output(store, arguments, capsys):
    for _ in range(2):
        assert main([*arguments, "--store", str(store), "--json"]) == 0
        streams = capsys.readouterr()
        json.loads(streams.out)
        assert streams.err == ""


@pytest.mark.parametrize("arguments", [["models", "list"], ["models", "show", "tiny"], ["doctor"]])
def test_tables_go_to_standard_error_plain_and_within_100_columns(store, arguments):
    done = nlpdeploy(*arguments, env={**os.environ, "NLPDEPLOY_STORE": str(store), "FORCE_COLOR": "", "NO_COLOR": "1"})
    assert done.returncode == 0
    assert done.stdout == ""
    assert "\x1b" not in done.stderr
    # A path is as long as it is.
    assert all(len(line) <= 100 for line in done.stderr.splitlines() if str(store) not in line)


def test_an_encoding_without_the_letters_still_gets_an_answer(store):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = nlpdeploy("models", "list", "--json", "--store", store, env=environment)
    assert json.loads(done.stdout)["store"] == str(store)
    assert nlpdeploy("predict", "tiny", "人", "--store", store, env=environment).returncode == 0


def test_standard_input_is_split_at_line_ends_alone(store):
    lines = "\ufeffhello\u2028world\r\n\nnote\x0bbook\n   \n人"
    done = subprocess.run(
        [*COMMAND, "predict", "tiny", "-", "--store", store, "--json"], input=lines.encode(), capture_output=True
    )  # fmt: skip
    answers = json.loads(done.stdout)
    assert len(answers) == 3
    alone = nlpdeploy("predict", "tiny", "hello\u2028world", "--store", store, "--json")
    assert answers[0]["tokens"] == json.loads(alone.stdout)[0]["tokens"]


def test_a_reader_that_leaves_is_no_bug(store):
    for stream in ("stdout", "stderr"):
        reading, writing = os.pipe()
        os.close(reading)
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: writing}
        arguments = ["models", "list", "--store", store, *(["--json"] if stream == "stdout" else [])]
        process = subprocess.Popen([*COMMAND, *arguments], **options)
        os.close(writing)
        out, err = process.communicate()
        assert process.returncode == 141
        assert not out
        assert not err


def test_a_closed_standard_output_leaves_the_status(store):
    command = " ".join([*COMMAND, "models", "verify", "tiny", "--json"])
    environment = {**os.environ, "NLPDEPLOY_STORE": str(store)}
    done = subprocess.run(["sh", "-c", f"{command} >&-"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_under_standard_output_is_one_line(store):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "models", "list", "--store", store, "--json"], stdout=full, stderr=subprocess.PIPE, text=True
        )  # fmt: skip
    assert done.returncode == 2
    assert "No space left" in one_line(done.stderr)


def test_a_bundle_that_can_not_be_read_does_not_hide_the_others(tmp_path, capsys):
    for name in ("bad", "good"):
        publish_tiny_bundle(tmp_path, name)
    (tmp_path / "bad/1/bundle.json").write_text("{}")
    assert main(["models", "list", "--store", str(tmp_path), "--json"]) == 0
    bad, good = json.loads(capsys.readouterr().out)["models"]
    assert "bundle.json" in bad["problem"]
    assert (good["bundle"], good["serves"], good["problem"]) == ("good/1", True, None)
    assert main(["models", "list", "--store", str(tmp_path)]) == 0
    told = capsys.readouterr().err
    assert "bad/1: " in told
    assert "bad/1/bundle.json is no manifest" in told
