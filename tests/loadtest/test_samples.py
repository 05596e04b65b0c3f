import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from nlpdeploy.bundle.errors import InvalidInput, NotFound, StoreFailed
from nlpdeploy.loadtest.plan import Block, draw_blocks
from nlpdeploy.loadtest.samples import (
    NEVER,
    Outcome,
    RunRecord,
    SampleLog,
    ServerFacts,
    WorkerBooks,
    read_record,
    read_samples,
    sample_path,
    write_record,
)
from support.loadruns import Answers, plan, store_run

BLOCK = Block(0, "candidate", 0, 1)


def test_what_is_written_is_read_back_merged_by_schedule(tmp_path):
    with SampleLog(tmp_path, BLOCK, 0) as one, SampleLog(tmp_path, BLOCK, 1) as other:
        one.append(0.2, 0.201, 0.25, Outcome.OK, 7, 200)
        other.append(0.1, 0.1, 0.4, Outcome.ERROR, 8, 503)
        other.append(0.3, NEVER, NEVER, Outcome.OVER_CAP, 9)
        one.append(0.4, 0.4, NEVER, Outcome.UNFINISHED, 3)
    samples = read_samples(tmp_path)
    assert samples.scheduled.tolist() == [0.1, 0.2, 0.3, 0.4]
    assert samples.payload.tolist() == [8, 7, 9, 3]
    assert samples.worker.tolist() == [1, 0, 1, 0]
    assert samples.status.tolist() == [503, 200, 0, 0]
    assert samples.latency.tolist() == [np.inf, pytest.approx(0.05), np.inf, np.inf]
    assert samples.lateness.tolist() == pytest.approx([0.0, 0.001, 0.0])
    assert samples.counts()[Outcome.OVER_CAP] == 1
    assert len(read_samples(tmp_path, "baseline")) == 0


def test_a_worker_killed_while_writing_leaves_every_settled_sample(tmp_path):
    script = (
        "import sys, pathlib\n"
        "from nlpdeploy.loadtest.plan import Block\n"
        "from nlpdeploy.loadtest.samples import Outcome, SampleLog\n"
        "log = SampleLog(pathlib.Path(sys.argv[1]), Block(0, 'candidate', 0, 1), 0)\n"
        "for at in range(1_000_000):\n"
        "    log.append(at / 1000, at / 1000, at / 1000 + 0.005, Outcome.OK, at % 7)\n"
        "    print(at, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as worker:
        for line in worker.stdout:
            if int(line) == 500:
                os.kill(worker.pid, signal.SIGKILL)
                break
        settled = 500
    samples = read_samples(tmp_path)
    assert len(samples) > settled
    assert np.array_equal(samples.payload, np.arange(len(samples)) % 7)


def test_half_a_record_at_the_end_is_left_out(tmp_path):
    with SampleLog(tmp_path, BLOCK, 0) as log:
        for at in range(3):
            log.append(float(at), float(at), at + 0.1, Outcome.OK, at)
    file = sample_path(tmp_path, 0, 0)
    whole = file.read_bytes()
    for cut in range(1, 31):
        file.write_bytes(whole[:-cut])
        assert read_samples(tmp_path).payload.tolist() == [0, 1]


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"{}\n", b"[1]\n", b'{"schema": 99, "block": 0}\n', b"\xff\xfe\n"]
)
def test_a_file_that_holds_no_samples_is_named(tmp_path, content):
    sample_path(tmp_path, 0, 0).write_bytes(content)
    with pytest.raises(InvalidInput, match="samples-000-00"):
        read_samples(tmp_path)


def test_an_unknown_outcome_is_refused(tmp_path):
    with SampleLog(tmp_path, BLOCK, 0) as log:
        log.append(0.0, 0.0, 0.1, Outcome.OK, 0)
    file = sample_path(tmp_path, 0, 0)
    file.write_bytes(file.read_bytes()[:-1] + b"\x63")
    with pytest.raises(InvalidInput, match="outcome"):
        read_samples(tmp_path)


def test_the_record_survives_the_disk(tmp_path):
    made = plan(workers=2)
    record = RunRecord(
        made,
        "2026-11-05T12:00:00Z",
        {"cores": 2, "python": "3.11"},
        {"candidate": ServerFacts(made.url, "a" * 64, None)},
        draw_blocks(made),
        (0.0,),
        (WorkerBooks(0, 0, 3, {"OK": 2, "ERROR": 1}, {"a" * 64: 2}), WorkerBooks(0, 1, 3, {}, problem="exit status 1")),
    )
    write_record(tmp_path / "new" / "run", record)
    assert read_record(tmp_path / "new" / "run") == record
    assert [path.name for path in (tmp_path / "new" / "run").iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    "change", [{"schema": 1}, {"plan": None}, {"blocks": [{}]}, {"books": [{"x": 1}]}, {"servers": 3}]
)
def test_a_record_that_is_none_is_refused_with_its_path(tmp_path, change):
    store_run(tmp_path, plan(seconds=0.1), lambda block, due: _ok(due))
    file = tmp_path / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(InvalidInput):
        read_record(tmp_path)
    file.write_text("{")
    with pytest.raises(InvalidInput, match=r"run\.json"):
        read_record(tmp_path)


def test_no_record_is_not_found_and_no_folder_can_not_be_written(tmp_path):
    with pytest.raises(NotFound, match=r"run\.json"):
        read_record(tmp_path)
    with pytest.raises(StoreFailed):
        SampleLog(tmp_path / "absent", BLOCK, 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFailed):
        write_record(tmp_path / "file", read_record(store_run(tmp_path / "a", plan(), lambda block, due: _ok(due))))


def _ok(due):
    return Answers(np.full(len(due), 0.005))
