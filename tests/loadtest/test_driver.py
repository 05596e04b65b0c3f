"""Whole runs: real Locust processes against a real server, judged by the samples that they leave."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest

from nlpdeploy.bundle.errors import InvalidInput, NotFound, Unavailable
from nlpdeploy.loadtest.certify import Verdict
from nlpdeploy.loadtest.driver import run
from nlpdeploy.loadtest.payloads import read_payloads
from nlpdeploy.loadtest.plan import Plan
from nlpdeploy.loadtest.samples import Outcome, read_record, read_samples
from nlpdeploy.loadtest.targets import parse_target
from nlpdeploy.loadtest.trace import open_trace
from nlpdeploy.loadtest.verdict import judge
from support.null_server import DIGEST, NullServer, label_of, null_server

TEXTS = ("Where is my card?", "I lost my card", "Wo ist meine Karte?", "我的卡在哪里", "top up failed")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "texts.csv"
    path.write_text("text\n" + "".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    return path


@pytest.fixture(params=["grpc", "http"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def plan_for(server: NullServer, transport: str, data: Path, **changes: object) -> Plan:
    plan = Plan(
        url=server.url(transport),
        model="intent",
        data=read_payloads(data).source,
        targets=(parse_target("p95=45ms"),),
        rate=100.0,
        seconds=1.0,
        arrivals="constant",
        timeout_s=1.0,
    )
    return replace(plan, **changes)  # type: ignore[arg-type]


def children_of(pid: int) -> set[int]:
    return {child.pid for child in psutil.Process(pid).children(recursive=True)}


@pytest.fixture(autouse=True)
def nobody_left_behind() -> Iterator[None]:
    before = children_of(os.getpid())
    yield
    assert children_of(os.getpid()) <= before


def test_bad_answers_with_a_good_status_count_as_failed(tmp_path: Path, data: Path, transport: str) -> None:
    """HTTP 200 with an error in its body; gRPC OK with a label of shape [0]."""
    with null_server("--error-share", "0.1") as server:
        run(plan_for(server, transport, data, rate=400.0, seconds=2.5), tmp_path / "run")
    counts = read_samples(tmp_path / "run").counts()
    assert (counts[Outcome.OK], counts[Outcome.WRONG_ANSWER]) == (900, 100)
    assert sum(counts.values()) == 1000


def test_refusals_count_as_failed_with_their_status(tmp_path: Path, data: Path, transport: str) -> None:
    with null_server("--error-share", "0.1", "--error-status", "429 Too Many Requests") as server:
        run(plan_for(server, transport, data, rate=200.0, seconds=0.5), tmp_path / "run")
    samples = read_samples(tmp_path / "run")
    assert (samples.counts()[Outcome.OK], samples.counts()[Outcome.ERROR]) == (90, 10)
    assert set(samples.status[samples.outcome == Outcome.ERROR].tolist()) == {8 if transport == "grpc" else 429}


def test_an_answer_past_the_timeout_is_a_timeout(tmp_path: Path, data: Path, transport: str) -> None:
    with null_server("--delay-ms", "300") as server:
        run(plan_for(server, transport, data, rate=40.0, seconds=0.5, timeout_s=0.05), tmp_path / "run")
    samples = read_samples(tmp_path / "run")
    assert samples.counts()[Outcome.TIMEOUT] == len(samples) == 20


def test_an_arrival_above_the_cap_is_not_sent_and_counts(tmp_path: Path, data: Path) -> None:
    with null_server("--delay-ms", "200") as server:
        run(plan_for(server, "http", data, rate=100.0, seconds=0.5, max_in_flight=2), tmp_path / "run")
        received = len(server.received())
    samples = read_samples(tmp_path / "run")
    assert len(samples) == 50
    assert samples.counts()[Outcome.OVER_CAP] > 30
    assert np.isnan(samples.sent[samples.outcome == Outcome.OVER_CAP]).all()
    assert received == 1 + 10 + samples.counts()[Outcome.OK]  # the first answer, the warm-up, the block


def test_a_constant_wrong_label_fails_where_the_right_ones_are_known(tmp_path: Path, data: Path) -> None:
    golden = tmp_path / "golden.json"
    golden.write_text(json.dumps([label_of(text) for text in TEXTS]))
    right = sum(label_of(text) == "even" for text in TEXTS)
    assert 0 < right < len(TEXTS)
    with null_server("--wrong-label", "even") as server:
        plan = plan_for(server, "grpc", data)
        run(replace(plan, data=replace(plan.data, golden=str(golden))), tmp_path / "run")
    counts = read_samples(tmp_path / "run").counts()
    assert counts[Outcome.OK] == 100 * right / len(TEXTS)
    assert counts[Outcome.WRONG_ANSWER] == 100 - counts[Outcome.OK]


def test_the_record_says_who_answered_and_the_books_balance(tmp_path: Path, data: Path) -> None:
    with null_server("--digest-changes-after", "60") as server:
        run(plan_for(server, "grpc", data), tmp_path / "run")
    record = read_record(tmp_path / "run")
    assert (record.servers["candidate"].digest, record.servers["candidate"].engine) == (DIGEST, "null-fp32")
    (books,) = record.books
    assert (books.scheduled, books.problem, record.interrupted) == (100, None, None)
    assert books.outcomes == {"OK": 100}
    assert books.engines == {"null-fp32": 100}
    assert len(books.digests) == 2
    assert sum(books.digests.values()) == 100


def test_workers_share_the_schedule_and_do_not_send_in_lockstep(tmp_path: Path, data: Path) -> None:
    with null_server() as server:
        run(plan_for(server, "http", data, rate=200.0, seconds=2.0, arrivals="poisson", workers=2), tmp_path / "run")
    samples = read_samples(tmp_path / "run")
    by_worker = [samples.where(samples.worker == worker) for worker in (0, 1)]
    assert all(len(own) > 100 for own in by_worker)
    assert samples.counts()[Outcome.OK] == len(samples)
    shared = set(np.round(by_worker[0].scheduled, 6)) & set(np.round(by_worker[1].scheduled, 6))
    assert len(shared) < 5
    assert (tmp_path / "run/locust/locust_stats.csv").is_file()


def test_a_replayed_trace_is_kept_with_the_run_and_judged_without_its_file(tmp_path: Path, data: Path) -> None:
    times = tmp_path / "times.txt"
    times.write_text("".join(f"{0.02 * at + 0.001 * (at % 3)}\n" for at in range(100)))
    trace, rate = open_trace(times)
    with null_server() as server:
        plan = plan_for(server, "http", data, arrivals="replay", trace=trace, rate=rate, seconds=100 / rate, workers=2)
        run(plan, tmp_path / "run")
    times.unlink()
    (tmp_path / "run").rename(tmp_path / "moved")
    found = judge(tmp_path / "moved")
    assert found.tallies["candidate"].ok == 100, found.reasons
    assert found.verdict is not Verdict.REFUTED


def test_baseline_blocks_alternate_with_the_other_server_idle(tmp_path: Path, data: Path) -> None:
    with null_server() as one, null_server("--engine", "null-int8") as other:
        plan = plan_for(one, "grpc", data, baseline_url=other.url("http"), pairs=4, seconds=2.0, arrivals="poisson")
        run(plan, tmp_path / "run")
        received = {"candidate": np.array(one.received()), "baseline": np.array(other.received())}
    record = read_record(tmp_path / "run")
    sides = [block.side for block in record.blocks]
    assert len(record.books) == len(sides) == 8
    samples = {side: read_samples(tmp_path / "run", side) for side in received}  # type: ignore[arg-type]
    assert record.servers["baseline"].engine == "null-int8"
    for pair in range(4):
        index = {block.side: block.index for block in record.blocks if block.pair == pair}
        mine, its = (samples[side].where(samples[side].block == index[side]) for side in ("candidate", "baseline"))
        assert np.array_equal(mine.scheduled, its.scheduled)
        assert np.array_equal(mine.payload, its.payload)
    # Between the first and the last request of a run of blocks on one side, the other side gets nothing.
    order = sorted([(time, side) for side, times in received.items() for time in times[1:]])
    changes = sum(before[1] != after[1] for before, after in pairwise(order))
    assert changes == sum(before != after for before, after in pairwise(sides))


@pytest.mark.parametrize("case", ["unreachable", "model", "data", "folder"])
def test_what_cannot_run_is_refused_before_any_traffic(tmp_path: Path, data: Path, case: str) -> None:
    with null_server() as server:
        plan = plan_for(server, "grpc", data)
        folder = tmp_path / "run"
        if case == "unreachable":
            with pytest.raises(Unavailable, match=r"model intent at http://127\.0\.0\.1:1"):
                run(replace(plan, url="http://127.0.0.1:1"), folder)
        elif case == "model":
            for transport in ("grpc", "http"):
                with pytest.raises(NotFound, match="model nobody"):
                    run(replace(plan, url=server.url(transport), model="nobody"), tmp_path / transport)
        elif case == "data":
            data.write_text("text\nchanged\n")
            with pytest.raises(InvalidInput, match="SHA-256"):
                run(plan, folder)
        else:
            folder.mkdir()
            (folder / "other").touch()
            with pytest.raises(InvalidInput, match="something there"):
                run(plan, folder)
        assert server.received() == []
        assert not folder.exists() or case == "folder"


RUN = """
import json, sys
from pathlib import Path
from nlpdeploy.loadtest.certify import Verdict
from nlpdeploy.loadtest.driver import run
from nlpdeploy.loadtest.plan import Plan
run(Plan.from_json(json.loads(sys.argv[1])), Path(sys.argv[2]), progress=lambda text: print(text, flush=True))
"""


def start_run(plan: Plan, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, json.dumps(plan.to_json()), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_traffic(child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    for text in child.stdout:
        if " due at " in text:
            return
    pytest.fail(f"no traffic: {child.communicate()[1]}")


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_ends_every_process_and_keeps_what_was_measured(tmp_path: Path, data: Path, workers: int) -> None:
    with null_server("--delay-ms", "100") as server:
        child = start_run(plan_for(server, "grpc", data, seconds=60.0, workers=workers), tmp_path / "run")
        wait_for_traffic(child)
        processes = children_of(child.pid)
        assert len(processes) == (1 if workers == 1 else 3)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    assert not [pid for pid in processes if psutil.pid_exists(pid)]
    record = read_record(tmp_path / "run")
    assert record.interrupted == "interrupted"
    assert record.measured_s is None or 0 < record.measured_s < 60.0
    samples = read_samples(tmp_path / "run")
    assert len(record.books) == workers
    assert len(samples) == sum(books.scheduled for books in record.books) > 0
    assert samples.counts()[Outcome.UNFINISHED] > 0


@pytest.mark.slow
def test_a_comparison_stopped_by_ctrl_c_is_judged_by_its_whole_groups(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "run"
    with null_server("--delay-ms", "5") as server:
        plan = plan_for(server, "grpc", data, seconds=8.0, baseline_url=server.url("http"), pairs=8, workers=2)
        child = start_run(plan, folder)
        while not (folder / "samples-006-00.bin").exists():
            assert child.poll() is None, child.communicate()[1]
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=30)
    found = judge(folder)
    assert (found.record.interrupted, len(found.record.blocks)) == ("interrupted", 4)
    assert {side: books.sent for side, books in found.tallies.items()} == {"candidate": 200, "baseline": 200}
    assert not any(reason.startswith("the run was cut short") for reason in found.reasons)
    assert found.verdict is not Verdict.CONFIRMED
    assert found.contrast is not None
    assert found.contrast.finding == "not comparable"


def test_a_run_until_decided_stops_early_and_is_judged_again_alike(tmp_path: Path, data: Path) -> None:
    with null_server() as server:
        plan = plan_for(server, "http", data, rate=200.0, seconds=160.0, until_decided=True, workers=2, timeout_s=0.5)
        started = time.monotonic()
        run(plan, tmp_path / "run")
        assert time.monotonic() - started < 120.0
    record = read_record(tmp_path / "run")
    assert record.interrupted is None
    assert record.measured_s is not None
    assert record.measured_s < 40.0
    found = judge(tmp_path / "run")
    assert found.verdict is Verdict.CONFIRMED, found.reasons
    assert found.judged_s == record.measured_s
    assert judge(tmp_path / "run").to_json() == found.to_json()
    samples = read_samples(tmp_path / "run")
    assert len(samples) == sum(books.scheduled for books in record.books)


def test_children_end_when_the_driver_is_killed(tmp_path: Path, data: Path) -> None:
    with null_server() as server:
        child = start_run(plan_for(server, "http", data, seconds=60.0, workers=2), tmp_path / "run")
        wait_for_traffic(child)
        processes = children_of(child.pid)
        child.kill()
        child.communicate()
        _, alive = psutil.wait_procs([psutil.Process(pid) for pid in processes if psutil.pid_exists(pid)], 20)
        assert not alive


def test_a_killed_worker_makes_the_run_invalid_by_name(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "run"
    with null_server() as server:
        command = [sys.executable, "-m", "nlpdeploy.cli", "loadtest", "run", "--url", server.url("http"), "--json"]
        command += ["--model", "intent", "--data", str(data), "--rate", "100", "--seconds", "60", "--workers", "2"]
        command += ["--target", "p95=45ms", "--run-dir", str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            while not any(path.stat().st_size > 1000 for path in folder.glob("samples-*.bin")):
                assert child.poll() is None, child.communicate()[1]
                time.sleep(0.02)
            workers = [each for each in psutil.Process(child.pid).children() if "--worker" in each.cmdline()]
            workers[0].kill()
            out, errors = child.communicate(timeout=30)
    assert child.returncode == 12, errors
    assert "was lost: exit status -9" in json.loads(out)["reasons"][0]
    record = read_record(folder)
    assert record.interrupted is not None
    (lost,) = [books for books in record.books if books.problem]
    assert str(lost.problem).startswith("exit status -9")
    assert f"worker {lost.worker} was lost" in record.interrupted
    assert f"worker {lost.worker} was lost" in json.loads(out)["reasons"][0]


def test_a_run_says_every_second_how_it_goes(tmp_path: Path, data: Path) -> None:
    said: list[str] = []
    with null_server("--delay-ms", "5") as server:
        run(plan_for(server, "http", data, seconds=2.5, workers=2), tmp_path / "run", progress=said.append)
    lines = [text for text in said if " due at " in text]
    assert lines
    assert all(" in flight, p50 " in text and " not ok, " in text and text.endswith(" s left") for text in lines)
