"""The client against a server that does nothing, and what a run makes of the rate that was found."""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from nlpdeploy.loadtest.calibrate import LOWEST, PRECISION, Reading, read, search
from nlpdeploy.loadtest.calibration import Calibration, keep, machine, tightest
from nlpdeploy.loadtest.certify import Verdict
from nlpdeploy.loadtest.client import open_client
from nlpdeploy.loadtest.null_server import null_server
from nlpdeploy.loadtest.samples import Outcome, read_record, read_samples, write_record
from nlpdeploy.loadtest.verdict import judge
from nlpdeploy.wire import codec_proto, oip
from support.cli import nlpdeploy
from support.loadruns import Answers, plan, store_run

FOUND = Calibration("grpc", 1, 1600.0, 0.4, 0.9, 1.5, "at 1700/s it was late", machine(), "2026-11-05T12:00:00+00:00")


def reading(rate, limit):
    return Reading(rate, 0.0005 if rate <= limit else 0.02, 0.001, 0.002, "" if rate <= limit else "it was late")


@pytest.mark.parametrize("limit", [50.0, 333.0, 1500.0, 19_000.0])
def test_the_search_ends_within_its_precision_below_what_the_client_can(limit):
    floor, best, failed = search(lambda rate: reading(rate, limit))
    assert floor.rate == LOWEST
    assert limit / PRECISION**1.01 <= best.rate <= limit < failed.rate
    assert failed.rate <= best.rate * PRECISION**1.01
    assert failed.why == "it was late"


def test_a_rate_that_fails_once_is_tried_again():
    asked = []

    def probe(rate):
        asked.append(rate)
        return reading(rate, 0.0 if asked.count(rate) == 1 and rate > LOWEST else 800.0)

    _, best, _ = search(probe)
    assert 800 / PRECISION**1.01 <= best.rate <= 800


def test_a_client_that_keeps_nothing_has_no_rate():
    _, best, failed = search(lambda rate: reading(rate, 0.0))
    assert not best.kept
    assert failed == best


def test_a_client_that_keeps_every_rate_is_asked_for_no_more_than_wanted():
    asked = []
    _, best, failed = search(lambda rate: asked.append(rate) or reading(rate, 1e9), 130.0)
    assert (best.rate, failed, asked) == (130.0, None, [LOWEST, 100.0, 130.0])


@pytest.mark.parametrize(
    ("late", "outcome", "why"),
    [
        (0.0002, Outcome.OK, ""),
        (0.0015, Outcome.OK, "the p99 of its lateness was 1.5 ms"),
        (0.0002, Outcome.TIMEOUT, "1 of 1000 requests had no good answer"),
        (1.0, Outcome.OK, "it offered 9.0 % less than scheduled"),
    ],
)
def test_why_a_rate_was_not_kept_is_said(tmp_path, late, outcome, why):
    def serve(block, due):
        outcomes = np.zeros(len(due), np.uint8)
        outcomes[500] = outcome
        return Answers(np.full(len(due), 0.001 + late), outcomes, late)

    run = store_run(tmp_path, plan(), serve)
    made = read_record(run)
    found = read(made.plan, made.blocks, read_samples(run))
    assert (found.why, found.kept) == (why, not why)


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


def test_the_null_server_answers_a_client_that_nobody_here_wrote_for_longer_than_one_window():
    with null_server() as addresses, grpc.insecure_channel(addresses["grpc"].removeprefix("grpc://")) as channel:
        infer = channel.unary_unary(oip.METHODS["ModelInfer"].path)
        calls = [infer.future(b"x" * 200) for _ in range(1500)]
        answers = {call.result(timeout=20) for call in calls}
        assert len(answers) == 1
        assert codec_proto.decode_response(oip.ModelInferResponse.FromString(answers.pop())).model == "null"
        with pytest.raises(grpc.RpcError) as refusal:
            channel.unary_unary("/other/Method")(b"")
        assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED


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
    flags = ("--transport", "http", "--seconds", "0.5", "--to", "100/s", "--json")
    done = nlpdeploy("loadtest", "calibrate", *flags, timeout=280)
    assert done.returncode == 0, done.stderr
    (client,) = json.loads(done.stdout)["clients"]
    file = Path(client.pop("file"))
    assert Calibration(**client) == Calibration(**json.loads(file.read_text())) == tightest(["http://h:1"], 1)
    assert 0 < client["floor_p50_ms"] <= client["floor_p99_ms"]
    assert client["max_rate"] == 0.0 or LOWEST <= client["max_rate"] <= 100.0
    assert client["limit"] == "100/s was the highest rate tried" or client["limit"].startswith("at ")


def test_a_highest_rate_below_the_lowest_is_refused():
    done = nlpdeploy("loadtest", "calibrate", "--to", "10/s")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--to; found 10/s; wanted at least 50/s" in done.stderr
