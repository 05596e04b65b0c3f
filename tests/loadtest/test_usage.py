"""Processor time and memory of a real server on this machine."""

import os
from pathlib import Path

from nlpdeploy.loadtest.driver import run
from nlpdeploy.loadtest.payloads import read_payloads
from nlpdeploy.loadtest.plan import Plan
from nlpdeploy.loadtest.report import write_report
from nlpdeploy.loadtest.samples import read_record
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


def test_a_server_that_is_elsewhere_or_not_there_is_left_out() -> None:
    for url in ("http://192.0.2.1:80", "http://127.0.0.1:1"):
        usage = ServerUsage({"candidate": url})
        usage.start("candidate")
        usage.stop("candidate")
        assert usage.to_json() == {}
