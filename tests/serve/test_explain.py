"""``serve --explain``: what it says is what a server of the same settings becomes."""

import json

import pytest

from nlpdeploy.bundle.errors import InvalidInput
from nlpdeploy.cli.main import main
from nlpdeploy.runtime.cores import CoreLimits, usable_cores
from nlpdeploy.serve.explain import _why_cores, explain
from nlpdeploy.serve.settings import Settings, WireLimits
from support.scrape import scraped
from support.server_process import server_process
from support.tiny_bundle import publish_tiny_bundle


def test_it_says_what_the_server_states(tmp_path):
    publish_tiny_bundle(tmp_path)
    explanation = explain(Settings(store=tmp_path, threads=1, wire=WireLimits(connections=300)))
    (model,) = explanation.models
    with server_process(store=tmp_path, model="tiny", connections=300) as server:
        ready = server.wait_ready()
        page = scraped(ready["http_port"])
    (served,) = ready["models"]
    assert model.model == f"{served['name']}/{served['version']}"
    assert model.bundle_digest == served["bundle_digest"]
    assert model.choices["engine"].value == served["engine"]
    assert model.choices["lanes"].value == page["nlpdeploy_model_lanes"][0].value == min(usable_cores(), 4)
    (threads,) = [s.value for s in page["nlpdeploy_model_threads"] if s.labels["kind"] == "lane"]
    assert model.choices["threads"].value == threads == 1
    assert model.choices["layout"].value == page["nlpdeploy_model_info"][0].labels["layout"]
    assert model.choices["token_budget"].value == page["nlpdeploy_batch_token_budget"][0].value
    stated = {sample.labels["limit"]: sample.value for sample in page["nlpdeploy_limit"]}
    assert {**explanation.limits, "grace_seconds": 0} == {**stated, "grace_seconds": 0}
    assert explanation.cores.value == usable_cores()
    assert list(model.forecast_ms) == [16]  # the tiny model takes no longer text
    assert model.forecast_ms[16] > 0


def test_the_command_prints_one_object_or_a_table_and_ends(tmp_path, capsys):
    publish_tiny_bundle(tmp_path)
    assert main(["serve", "--store", str(tmp_path), "--explain", "--json", "--engine", "onnx-fp32"]) == 0
    told = json.loads(capsys.readouterr().out)
    engine = told["models"][0]["choices"]["engine"]
    assert engine["value"] == "onnx-fp32"
    assert "--engine" in engine["why"]
    assert main(["serve", "--store", str(tmp_path), "--explain"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "tiny/1" in err
    assert "the bundle's default" in err
    assert max(map(len, err.splitlines())) <= 100


def test_threads_are_held_against_the_usable_cores_and_not_the_machine_s(tmp_path):
    with pytest.raises(InvalidInput, match=f"--threads; found {usable_cores() + 1}; wanted 1 to the {usable_cores()}"):
        explain(Settings(store=tmp_path, threads=usable_cores() + 1))


@pytest.mark.parametrize(
    ("limits", "usable", "words"),
    [
        (CoreLimits(8, 8, None), 8, "8 of the machine's 8 in the affinity mask, no CPU quota"),
        (CoreLimits(8, 4, 2.5), 3, "4 of the machine's 8 in the affinity mask, a CPU quota of 2.5"),
        (CoreLimits(8, 2, 6.0), 2, "a CPU quota of 6"),
        (CoreLimits(8, 8, 0.5), 1, "a CPU quota of 0.5"),
    ],
)
def test_cores_are_the_smaller_of_mask_and_quota(limits, usable, words):
    assert limits.usable == usable
    assert words in _why_cores(limits)
