"""The demo, whole, on a shorter load test."""

import hashlib
import json
from pathlib import Path

import pytest

from nlpdeploy.cli.exits import VERDICT
from support.cli import nlpdeploy
from support.demo_run import RATE, SECONDS, demo_run

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def demo(beside_root):
    folder, done = demo_run(beside_root)
    assert done.stdout, done.stderr
    return folder, done, json.loads(done.stdout)


def test_the_exit_status_is_the_verdicts(demo):
    _, done, verdict = demo
    assert done.returncode == VERDICT[verdict["verdict"]]


def test_it_shows_the_table_and_three_answers_through_tritonclient(demo):
    _, done, _ = demo
    assert "torch-fp32" in done.stderr
    assert "speed-up" in done.stderr
    assert done.stderr.count(" -> ") == 3
    assert "'Somebody stole my wallet and my card was in it' -> " in done.stderr


def test_one_number_trail_runs_from_the_checkpoint_to_the_verdict(demo):
    folder, _, verdict = demo
    listed = json.loads(nlpdeploy("models", "show", "demo", "--store", folder / "model_store", "--json").stdout)
    assert verdict["server"]["digest"] == listed["digest"]
    assert verdict["server"]["engine"] == listed["default_engine"]
    assert verdict["baseline"]["engine"] == "torch-fp32"
    held_to = json.loads((Path(verdict["run_dir"]) / "golden.json").read_text(encoding="utf-8"))
    assert {label for label in held_to if label is not None} <= set(listed["model"]["labels"])
    assert any(held_to)
    weights = (folder / "checkpoint" / "model.safetensors").read_bytes()
    assert listed["source"]["weights"] == {"model.safetensors": hashlib.sha256(weights).hexdigest()}


def test_the_books_balance_and_the_traffic_is_what_was_asked_for(demo):
    _, _, verdict = demo
    assert verdict["sent"] == verdict["ok"] + verdict["failed"] + verdict["unfinished"]
    assert abs(verdict["sent"] + verdict["over_cap"] - SECONDS * RATE) < 6 * (SECONDS * RATE) ** 0.5
    assert verdict["failed"] == 0
    assert sorted(verdict["baseline"]["order"]) == ["baseline"] * 10 + ["candidate"] * 10


def test_the_run_can_be_judged_again_without_traffic(demo):
    _, _, verdict = demo
    again = nlpdeploy("loadtest", "judge", verdict["run_dir"], "--json")
    assert json.loads(again.stdout)["verdict"] == verdict["verdict"]
    lenient = nlpdeploy("loadtest", "judge", verdict["run_dir"], "--target", "p50=900ms", "--json")
    strict = nlpdeploy("loadtest", "judge", verdict["run_dir"], "--target", "p50=10us", "--json")
    assert json.loads(lenient.stdout)["targets"][0]["metric"] == "p50"
    assert json.loads(strict.stdout)["verdict"] in {"REFUTED", "INVALID"}
