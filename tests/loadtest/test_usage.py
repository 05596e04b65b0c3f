"""Processor time and memory of a real server on this machine."""

import os
from pathlib import Path

import pytest

from nlpdeploy.loadtest.driver import run
from nlpdeploy.loadtest.payloads import read_payloads
from nlpdeploy.loadtest.plan import Plan
from nlpdeploy.loadtest.report import write_report
from nlpdeploy.loadtest.samples import read_record
from nlpdeploy.loadtest.server_metrics import ServerMetrics, figures, read_counters
from nlpdeploy.loadtest.targets import parse_target
from nlpdeploy.loadtest.usage import ServerUsage
from nlpdeploy.loadtest.verdict import judge
from support.null_server import null_server


def test_what_a_server_here_spends_stands_in_the_record_and_on_the_page(tmp_path: Path) -> None:
    data = tmp_path / "texts.txt"
    data.write_text("hello\nworld\n")
    with null_server() as server:
        url = server.url("http")
        made = Plan(url, "intent", read_payloads(data).source, (parse_target("p95=500ms"),), rate=200.0, seconds=2.0)
        run(made, tmp_path / "run")
        status = Path(f"/proc/{server.pid}/status").read_text()
        spent = sum(map(int, Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    found = read_record(tmp_path / "run").machine["server_usage"]["candidate"]
    rss_mib = int(status.partition("VmRSS:")[2].split()[0]) / 1024
    assert 0.5 * rss_mib < found["rss_mib"] < 1.5 * rss_mib
    assert 0 < found["cpu_s"] <= spent / os.sysconf("SC_CLK_TCK")
    assert "ms a request" in write_report(tmp_path / "run", judge(tmp_path / "run")).read_text(encoding="utf-8")


def test_a_server_that_is_elsewhere_or_not_there_or_has_no_such_page_is_left_out() -> None:
    for url in ("http://192.0.2.1:80", "http://127.0.0.1:1"):
        assert watched(ServerUsage({"candidate": url})) == {}
        assert watched(ServerMetrics({"candidate": url}, "intent")) == {}
    with null_server() as server:
        for transport in ("grpc", "http"):
            assert watched(ServerMetrics({"candidate": server.url(transport)}, "intent")) == {}


def watched(watcher: ServerUsage | ServerMetrics) -> dict[str, object]:
    watcher.start("candidate")
    watcher.stop("candidate")
    return watcher.to_json()


PAGE = """
# HELP nlpdeploy_batch_rows Rows of an engine call
nlpdeploy_batch_rows_bucket{model="m",version="1",engine="e",le="1.0"} 2.0
nlpdeploy_batch_rows_sum{model="m",version="1",engine="e"} 12.0
nlpdeploy_batch_rows_count{model="m",version="1",engine="e"} 4.0
nlpdeploy_batch_seconds_sum{model="m",version="1",engine="e"} 0.02
nlpdeploy_batch_tokens_sum{model="m",version="1",engine="e"} 200.0
nlpdeploy_tokens_total{model="m",version="1",engine="e"} 150.0
nlpdeploy_tokens_total{model="other",version="1",engine="e"} 7.0
nlpdeploy_refusals_total{model="m",version="1",engine="e",reason="queue full"} 1.0
nlpdeploy_refusals_total{model="m",version="1",engine="e",reason="too late"} 2.0
nlpdeploy_stage_seconds_sum{model="m",version="1",engine="e",stage="queue"} 0.03
nlpdeploy_stage_seconds_count{model="m",version="1",engine="e",stage="queue"} 10.0
nlpdeploy_stage_seconds_sum{model="m",version="1",engine="e",stage="infer"} 9.0
"""


def test_a_models_counters_are_read_and_summed_up() -> None:
    found = figures(read_counters(PAGE.splitlines(), "m"))
    assert found == {
        "engine_calls": 4.0,
        "rows_per_call": 3.0,
        "call_ms": pytest.approx(5.0),
        "padding": 0.25,
        "queue_ms": pytest.approx(3.0),
        "refused": 3.0,
    }
    assert figures(read_counters(PAGE.splitlines(), "nobody"))["call_ms"] is None
