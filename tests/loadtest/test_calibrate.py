"""The client against a server that does nothing, and what a run makes of the rate that was found."""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from nlpdeploy.loadtest.calibrate import LOWEST, PRECISION, Reading, search
from nlpdeploy.loadtest.calibration import Calibration, keep, machine, tightest
from nlpdeploy.loadtest.certify import Verdict
from nlpdeploy.loadtest.client import open_client
from nlpdeploy.loadtest.null_server import null_server
from nlpdeploy.loadtest.samples import Outcome, read_record, write_record
from nlpdeploy.loadtest.verdict import judge
from support.cli import nlpdeploy
from support.loadruns import Answers, plan, store_run

FOUND = Calibration("grpc", 1, 1600.0, 0.4, 0.9, 1.5, machine(), "2026-11-05T12:00:00+00:00")


def reading(rate, limit):
    return Reading(rate, rate <= limit, 0.0005 if rate <= limit else 0.02, 0.001, 0.002)


@pytest.mark.parametrize("limit", [50.0, 333.0, 1500.0, 19_000.0])
def test_the_search_ends_within_its_precision_below_what_the_client_can(limit):
    floor, best = search(lambda rate: reading(rate, limit))
    assert floor.rate == LOWEST
    assert limit / PRECISION**1.01 <= best.rate <= limit


def test_a_rate_that_fails_once_is_tried_again():
    asked = []

    def probe(rate):
        asked.append(rate)
        return reading(rate, 0.0 if asked.count(rate) == 1 and rate > LOWEST else 800.0)

    _, best = search(probe)
    assert 800 / PRECISION**1.01 <= best.rate <= 800


def test_a_client_that_keeps_nothing_has_no_rate():
    _, best = search(lambda rate: reading(rate, 0.0))
    assert not best.kept


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_the_null_server_answers_both_clients_and_ends(transport):
    with null_server() as addresses:
        client = open_client(addresses[transport], "null")
        assert {spec.name for spec in client.metadata(5.0).inputs} == {"text"}
        for text in ("hello", "人" * 5000):
            reply = client.send(client.encode(text), time.monotonic() + 5)
            assert reply.outcome is Outcome.OK
            found = {tensor.name: tensor.data[0] for tensor in client.read(reply.body).outputs}
            assert found == {"label": b"nothing", "score": 1.0}
        client.close()
    assert open_client(addresses["http"], "null").send(b"", time.monotonic() + 1).outcome is not Outcome.OK


def test_what_was_found_is_kept_for_this_machine_its_transport_and_workers(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tightest(["grpc://h:1"], 1) is None
    keep(FOUND)
    keep(replace(FOUND, transport="http", max_rate=900.0))
    assert tightest(["grpc://h:1"], 1) == FOUND
    assert tightest(["grpc://h:1", "torchserve://h:2"], 1).max_rate == 900.0
    assert tightest(["grpc://h:1"], 2) is None
    keep(replace(FOUND, machine="another"))
    assert tightest(["grpc://h:1"], 1) is None
    (file,) = tmp_path.glob("nlpdeploy/client-*-http-1.json")
    file.write_text("{")
    assert tightest(["http://h:1"], 1) is None


def test_a_run_above_the_clients_rate_is_invalid_whatever_its_latencies_are(tmp_path):
    def serve(block, due):
        return Answers(np.full(len(due), 0.005))

    run = store_run(tmp_path, plan("p95=45ms", rate=100.0, seconds=30.0), serve)
    record = read_record(run)
    for limit, verdict in ((100.0, Verdict.CONFIRMED), (99.0, Verdict.INVALID)):
        write_record(run, replace(record, machine={"client": asdict(replace(FOUND, max_rate=limit))}))
        assert judge(run).verdict is verdict
    assert "100/s is more than this client keeps on schedule: 99/s over grpc with 1 worker" in judge(run).reasons[0]


@pytest.mark.timeout(300)
def test_the_command_measures_this_machine_and_later_runs_know(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = nlpdeploy("loadtest", "calibrate", "--transport", "http", "--seconds", "0.5", "--json", timeout=280)
    assert done.returncode == 0, done.stderr
    (client,) = json.loads(done.stdout)["clients"]
    file = Path(client.pop("file"))
    assert Calibration(**client) == Calibration(**json.loads(file.read_text())) == tightest(["http://h:1"], 1)
    assert 0 < client["floor_p50_ms"] <= client["floor_p99_ms"]
    assert client["max_rate"] == 0 or client["max_rate"] >= LOWEST
