"""The page that Prometheus scrapes: what is counted, what is stated, and what is left when nothing is to be counted."""

import re
from pathlib import Path

import pytest

from support.scrape import asked, scraped
from support.server_process import server_process

SERVING = Path(__file__).parents[2] / "docs/serving.md"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with server_process(folder=tmp_path_factory.mktemp("tiny"), connections=300) as server:
        port = server.wait_ready()["http_port"]
        assert asked(port, "POST", "/v2/models/tiny/predict", b'{"text": ["hello a", "world"]}')[0] == 200
        assert asked(port, "POST", "/v2/models/tiny/predict", b'{"text": 7}')[0] == 400
        assert asked(port, "POST", "/v2/models/nobody/predict", b'{"text": "x"}')[0] == 404
        assert asked(port, "POST", "/v2/models/tiny/predict", b"x" * 70_000_000)[0] == 413
        yield scraped(port)


@pytest.mark.parametrize("name", ["request_seconds", "stage_seconds", "batch_seconds"])
def test_times_are_histograms_in_seconds_with_bounds_at_the_targets(page, name):
    bounds = {sample.labels["le"] for sample in page[f"nlpdeploy_{name}_bucket"]}
    assert {"0.045", "0.12", "+Inf"} <= bounds
    assert f"nlpdeploy_{name}_sum" in page


def test_stages_stand_apart_and_add_up_to_the_request(page):
    spent = {sample.labels["stage"]: sample.value for sample in page["nlpdeploy_stage_seconds_sum"]}
    (whole,) = [s.value for s in page["nlpdeploy_request_seconds_sum"] if s.labels["outcome"] == "ok"]
    assert set(spent) == {"encode", "queue", "infer", "decode"}
    assert sum(spent.values()) == pytest.approx(whole)


def test_batches_refusals_and_the_queue_are_counted(page):
    assert sum(sample.value for sample in page["nlpdeploy_batch_rows_sum"]) == 2
    assert sum(sample.value for sample in page["nlpdeploy_tokens_total"]) == 7
    assert [s.value for s in page["nlpdeploy_http_refusals_total"] if s.labels["status"] == "413"] == [1]
    assert {s.labels["reason"] for s in page["nlpdeploy_refusals_total"]} >= {"queue_rows", "deadline_forecast"}
    assert [s.value for s in page["nlpdeploy_queue_rows"]] == [0]
    assert [s.labels["outcome"] for s in page["nlpdeploy_request_seconds_count"] if s.value] == ["ok", "InvalidInput"]


def test_what_is_served_and_its_bounds_are_stated(page):
    (info,) = page["nlpdeploy_model_info"]
    assert len(info.labels["bundle_digest"]) == 64
    limits = {sample.labels["limit"]: sample.value for sample in page["nlpdeploy_limit"]}
    assert (limits["connections"], limits["message_bytes"], limits["queue_rows"]) == (300, 32 * 2**20, 4096)
    assert (info.labels["layout"], [s.value for s in page["nlpdeploy_model_lanes"]]) == ("padded", [1])
    (budget,) = page["nlpdeploy_batch_token_budget"]
    assert budget.value > 0


def test_the_page_of_the_docs_names_what_is_on_the_page_and_nothing_else(page):
    documented = set(re.findall(r"`(nlpdeploy_\w+)`", SERVING.read_text(encoding="utf-8")))
    shown = {re.sub("_(bucket|sum|count)$", "", name) for name in page if not name.endswith("_created")}
    # A ready-made predictor, as the tiny one, was loaded by nobody who would know its threads.
    assert {name for name in shown if name.startswith("nlpdeploy_")} == documented - {"nlpdeploy_model_threads"}


def test_the_process_is_measured(page):
    (resident,), (peak,) = page["process_resident_memory_bytes"], page["nlpdeploy_peak_resident_bytes"]
    assert 10e6 < resident.value <= 1.02 * peak.value
    for name in ("process_cpu_seconds_total", "process_open_fds", "process_start_time_seconds"):
        assert page[name][0].value > 0


def test_with_metrics_off_nothing_is_counted_and_what_is_served_is_still_stated(tmp_path):
    with server_process(folder=tmp_path, metrics="off") as server:
        port = server.wait_ready()["http_port"]
        assert asked(port, "POST", "/v2/models/tiny/predict", b'{"text": "hello"}')[0] == 200
        assert asked(port, "POST", "/v2/models/tiny/predict", b'{"text": 7}')[0] == 400
        page = scraped(port)
    assert not any(sample.value for sample in page["nlpdeploy_request_seconds_count"])
    assert not any(sample.value for sample in page["nlpdeploy_batch_rows_count"])
    assert len(page["nlpdeploy_model_info"]) == len(page["nlpdeploy_batch_token_budget"]) == 1
