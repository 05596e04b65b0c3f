import csv
import json
import subprocess
import sys
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from nlpdeploy.loadtest.exports import JUNIT_FILE, STATISTICS_FILE, write_exports
from nlpdeploy.loadtest.samples import Outcome
from nlpdeploy.loadtest.verdict import judge
from support.loadruns import Answers, plan, store_run

COLUMNS = """
import json
from locust import stats
print(json.dumps(stats.StatsCSV(None, stats.PERCENTILES_TO_REPORT).requests_csv_columns))
"""


def steady(milliseconds):
    return lambda block, due: Answers(np.full(len(due), milliseconds / 1e3) + 1e-6 * np.arange(len(due)) % 1e-4)


def exported(run):
    write_exports(run, judge(run))
    with (run / STATISTICS_FILE).open(encoding="utf-8", newline="") as file:
        return ET.parse(run / JUNIT_FILE).getroot(), list(csv.DictReader(file))


def test_a_target_is_a_test_case_and_only_a_confirmed_one_passes(tmp_path):
    suite, _ = exported(store_run(tmp_path, plan("p95=45ms", "p99=6ms"), steady(10)))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")
    met, missed = suite.findall("testcase")
    assert (met.get("name"), met.find("failure")) == ("p95=45ms", None)
    assert (missed.get("name"), missed.find("failure").get("type")) == ("p99=6ms", "REFUTED")
    assert "p99" in missed.find("failure").get("message")
    properties = {found.get("name"): found.get("value") for found in suite.iter("property")}
    assert properties["verdict"] == "REFUTED"
    assert properties["digest"] == "a" * 64


def test_an_invalid_run_is_an_error_of_every_target(tmp_path):
    run = store_run(tmp_path, plan("p95=45ms"), steady(10))
    for path in run.glob("samples-*.bin"):
        path.unlink()
    suite, (line,) = exported(run)
    assert (suite.get("failures"), suite.get("errors")) == ("0", "1")
    assert suite.find("testcase/error").get("type") == "INVALID"
    assert (line["Request Count"], line["95%"]) == ("0", "N/A")


def test_statistics_have_locusts_columns_and_the_exact_quantiles(tmp_path):
    # In a process of its own: importing Locust replaces the threads and sockets of this one.
    done = subprocess.run([sys.executable, "-c", COLUMNS], capture_output=True, text=True, timeout=60, check=True)
    columns = json.loads(done.stdout)

    def serve(block, due):
        outcomes = np.full(len(due), Outcome.OK, dtype=np.uint8)
        outcomes[:7] = Outcome.ERROR
        return Answers(0.010 + 0.00001 * np.arange(len(due)), outcomes)

    _, (line,) = exported(store_run(tmp_path, plan("p95=45ms"), serve))
    assert list(line) == columns
    count = int(line["Request Count"])
    assert int(line["Failure Count"]) == 7
    times = 10 + 0.01 * np.arange(7, count)
    assert float(line["Min Response Time"]) == pytest.approx(times[0], abs=0.01)
    assert float(line["95%"]) == pytest.approx(times[int(np.ceil(0.95 * len(times))) - 1], abs=0.01)
    assert float(line["100%"]) == pytest.approx(times[-1], abs=0.01)
    assert float(line["Requests/s"]) == pytest.approx(plan().rate, rel=0.1)


def test_a_comparison_has_a_line_a_side(tmp_path):
    made = plan("p95=45ms", baseline_url="http://127.0.0.1:9000", pairs=8)
    _, lines = exported(store_run(tmp_path, made, steady(10)))
    assert [line["Name"].split()[-1] for line in lines] == ["candidate", "baseline"]
    assert lines[1]["Type"] == "http"
