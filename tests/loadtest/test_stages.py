"""Stage times: as they are written by the standard, by both of our own fronts, through whole runs, onto the page."""

import numpy as np
import pytest

from nlpdeploy.loadtest.driver import run
from nlpdeploy.loadtest.payloads import read_payloads
from nlpdeploy.loadtest.plan import Plan, draw_blocks
from nlpdeploy.loadtest.report import write_report
from nlpdeploy.loadtest.samples import Outcome, read_record, read_samples
from nlpdeploy.loadtest.stages import read_timing, stage_times, write_stages
from nlpdeploy.loadtest.targets import parse_target
from nlpdeploy.loadtest.verdict import judge
from support.loadruns import Answers, plan, store_run
from support.server_process import server_process


@pytest.mark.parametrize(
    ("header", "stages"),
    [
        ("queue;dur=1.500, engine;dur=20", {"queue": 1.5, "engine": 20.0}),
        ('db;desc="a b";dur=53.2', {"db": 53.2}),
        ("cache;desc=hit, app;dur=4", {"app": 4.0}),
        ("nonsense", {}),
        ("", {}),
    ],
)
def test_server_timing_is_read_as_the_standard_writes_it(header, stages):
    assert read_timing(header) == stages


def test_stages_of_all_blocks_and_workers_are_summed_up_and_a_torn_file_is_left_out(tmp_path):
    made = plan("p95=45ms", workers=2)
    folder = store_run(tmp_path / "run", made, lambda block, due: Answers(np.full(len(due), 0.01)))
    (block,) = draw_blocks(made)
    write_stages(folder, block, 0, ["queue;dur=1, engine;dur=10", "queue;dur=3, engine;dur=20"])
    write_stages(folder, block, 1, ["queue;dur=8"])
    engine, queue = stage_times(folder, read_record(folder), "candidate")
    assert (engine.name, engine.answers, engine.mean_ms, engine.p99_ms) == ("engine", 2, 15.0, 20.0)
    assert (queue.name, queue.answers, queue.mean_ms, queue.p50_ms) == ("queue", 3, 4.0, 3.0)
    torn = folder / "stages-000-01.npz"
    torn.write_bytes(torn.read_bytes()[:40])
    assert [stage.answers for stage in stage_times(folder, read_record(folder), "candidate")] == [2, 2]
    page = write_report(folder, judge(folder)).read_text(encoding="utf-8")
    assert "Inside the server" in page


@pytest.mark.timeout(200)
@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_a_run_against_the_real_server_keeps_what_its_front_tells(tmp_path, transport):
    data = tmp_path / "texts.txt"
    data.write_text("hello\nworld\n")
    with server_process(folder=tmp_path, seconds=0.004) as server:
        ready = server.wait_ready()
        made = Plan(
            url=f"{transport}://127.0.0.1:{ready[f'{transport}_port']}",
            model="tiny",
            data=read_payloads(data).source,
            targets=(parse_target("p95=500ms"),),
            rate=40.0,
            seconds=1.0,
            timeout_s=2.0,
        )
        run(made, tmp_path / "run")
    result = judge(tmp_path / "run").to_json()
    tokens = result["payload"]["tokens"]
    assert (tokens["texts"], tokens["of"]) == (2, 2)
    assert 1 <= tokens["p50"] <= tokens["mean"] * 2 <= 2 * tokens["p95"]
    page = write_report(tmp_path / "run", judge(tmp_path / "run")).read_text(encoding="utf-8")
    assert "as the server counts all 2 texts" in page
    ok = read_samples(tmp_path / "run").counts()[Outcome.OK]
    # Over gRPC the page is found at another port of the same process. What is counted begins after the warm-up.
    metrics = result["server"]["metrics"]
    assert ok / 8 <= metrics["engine_calls"] <= ok
    assert metrics["engine_calls"] * metrics["rows_per_call"] == pytest.approx(ok)
    assert metrics["call_ms"] >= 4.0
    assert (metrics["queue_ms"] >= 0.0, metrics["refused"]) == (True, 0)
    assert "requests waited" in page
    stages = {stage.name: stage for stage in stage_times(tmp_path / "run", read_record(tmp_path / "run"), "candidate")}
    assert ok > 0
    assert all(stage.answers == ok for stage in stages.values())
    assert max(stage.p50_ms for stage in stages.values()) >= 4.0
