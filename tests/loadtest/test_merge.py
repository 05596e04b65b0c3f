"""Several stored runs judged as one."""

from dataclasses import replace

import numpy as np
import pytest

from nlpdeploy.bundle.errors import InvalidInput
from nlpdeploy.loadtest.certify import Verdict
from nlpdeploy.loadtest.merge import judge_merged
from nlpdeploy.loadtest.samples import Outcome, read_record, sample_path, write_record
from nlpdeploy.loadtest.targets import parse_target
from nlpdeploy.loadtest.verdict import judge
from support.loadruns import DIGEST, Answers, plan, store_run


def quick(block, due):
    return Answers(0.005 + 0.001 * np.random.default_rng(block.seed).random(len(due)), digests={DIGEST: len(due)})


def two(tmp_path, serve=quick, **changes):
    return [
        store_run(
            tmp_path / str(seed), plan(*changes.pop("targets", ("p99=45ms",)), seed=seed, seconds=4.0, **changes), serve
        )
        for seed in (1, 2)
    ]


def test_runs_too_short_alone_are_long_enough_together(tmp_path):
    runs = two(tmp_path)
    assert [judge(run).verdict for run in runs] == [Verdict.INCONCLUSIVE] * 2
    found = judge_merged(runs)
    assert found.verdict is Verdict.CONFIRMED
    assert (found.tallies["candidate"].sent, found.judged_s) == (800, 8.0)
    assert judge_merged(runs, (parse_target("p95=3ms"),)).verdict is Verdict.REFUTED


def test_each_run_loses_its_own_warm_up_and_keeps_its_failures(tmp_path):
    def cold(block, due):
        outcome = np.where(np.arange(len(due)) == 3, Outcome.ERROR, Outcome.OK).astype(np.uint8)
        return Answers(np.where(due < 0.4, 0.1, 0.005), outcome, digests={DIGEST: len(due)})

    found = judge_merged(two(tmp_path, cold))
    assert found.tallies["candidate"].failed == 2
    assert found.tallies["candidate"].sent == 800 - 2 * 39
    assert found.targets[0].certificate.over == 2


def test_a_fault_of_one_run_makes_the_whole_invalid_and_names_it(tmp_path):
    runs = two(tmp_path)
    file = sample_path(runs[1], 0, 0)
    file.write_bytes(file.read_bytes()[:-31])
    found = judge_merged(runs)
    assert found.verdict is Verdict.INVALID
    assert found.reasons[0].startswith(str(runs[1]))


def test_runs_that_met_different_bundles_are_invalid(tmp_path):
    one, other = two(tmp_path)
    record = read_record(other)
    books = tuple(replace(entry, digests={"c" * 64: entry.scheduled}) for entry in record.books)
    servers = {"candidate": replace(record.servers["candidate"], digest="c" * 64)}
    write_record(other, replace(record, books=books, servers=servers))
    found = judge_merged([one, other])
    assert found.verdict is Verdict.INVALID
    assert "different bundles" in found.reasons[0]


def test_what_asks_different_questions_is_refused(tmp_path):
    one = store_run(tmp_path / "one", plan(), quick)
    for name, changes in {"rate": {"rate": 50.0}, "arrivals": {"arrivals": "poisson"}}.items():
        other = store_run(tmp_path / name, plan(**changes), quick)
        with pytest.raises(InvalidInput, match=name):
            judge_merged([one, other])
    with pytest.raises(InvalidInput, match="twice"):
        judge_merged([one, one])
    stopped = store_run(tmp_path / "stopped", plan(until_decided=True), quick)
    with pytest.raises(InvalidInput, match="decided"):
        judge_merged([one, stopped])
