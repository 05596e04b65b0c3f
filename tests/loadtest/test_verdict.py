import json
import math
from dataclasses import replace

import numpy as np
import pytest

from nlpdeploy.bundle.errors import InvalidInput, NotFound
from nlpdeploy.loadtest.certify import Verdict
from nlpdeploy.loadtest.report import write_report
from nlpdeploy.loadtest.samples import Outcome, read_record, sample_path, write_record
from nlpdeploy.loadtest.targets import parse_target
from nlpdeploy.loadtest.verdict import judge
from support.loadruns import DIGEST, Answers, plan, queue_latency, store_run


def quick(block, due):
    """5 ms, a little different from request to request."""
    return Answers(0.005 + 0.001 * np.random.default_rng(block.seed).random(len(due)))


def test_a_quick_server_is_confirmed_and_the_books_balance(tmp_path):
    found = judge(store_run(tmp_path, plan("p95=45ms", "mean=20ms", "p50=10ms"), quick))
    assert found.verdict is Verdict.CONFIRMED
    result = found.to_json()
    json.dumps(result, allow_nan=False)
    assert (result["sent"], result["ok"], result["failed"], result["over_cap"], result["unfinished"]) == (
        1000,
        1000,
        0,
        0,
        0,
    )
    assert [target["verdict"] for target in result["targets"]] == ["CONFIRMED"] * 3
    assert 5.0 < result["targets"][0]["observed_ms"] < 6.0
    assert result["rate"]["achieved"] == pytest.approx(100.0, rel=0.01)
    assert result["server"]["digest"] == DIGEST
    assert result["baseline"] is None
    assert result["run_dir"] == str(tmp_path)


def test_a_server_frozen_for_two_seconds_is_refuted_with_the_delay_charged_to_it(tmp_path):
    def frozen(block, due):
        return Answers(np.where((due >= 4.0) & (due < 6.0), 6.0 - due, 0.0) + 0.005)

    found = judge(store_run(tmp_path, plan("p95=45ms", "p50=1s", "p99=3s"), frozen), None)
    p95, p50, p99 = found.targets
    assert found.verdict is Verdict.REFUTED
    assert p95.verdict is Verdict.REFUTED
    assert p50.observed == pytest.approx(0.005, abs=1e-9)
    assert p95.observed == pytest.approx(1.505, abs=0.011)
    assert p99.observed == pytest.approx(1.905, abs=0.011)


def test_six_of_a_hundred_over_is_inconclusive_and_p95_is_an_observed_value(tmp_path):
    def rounded(block, due):
        return Answers(np.where(np.isin(np.arange(len(due)), (7, 22, 41, 58, 73, 96)), 0.0454, 0.010))

    found = judge(store_run(tmp_path, plan("p95=45ms", seconds=1.0), rounded))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.to_json()["targets"][0]["observed_ms"] == pytest.approx(45.4)
    assert found.to_json()["targets"][0]["over"] == 6
    assert found.to_json()["targets"][0]["more_seconds"] > 1
    assert "more at this rate" in found.reasons[0]
    assert "too short to tell" in found.reasons[0] or "nine in ten runs" in found.reasons[0]
    assert found.to_json()["targets"][0]["advised_seconds"] > 1


@pytest.mark.parametrize("bad", [Outcome.ERROR, Outcome.TIMEOUT, Outcome.WRONG_ANSWER])
def test_every_tenth_answer_bad_is_refuted_and_sent_is_ok_plus_failed(tmp_path, bad):
    def tenth(block, due):
        outcome = np.where(np.arange(len(due)) % 10 == 3, bad, Outcome.OK).astype(np.uint8)
        return Answers(np.full(len(due), 0.005), outcome)

    result = judge(store_run(tmp_path, plan(), tenth)).to_json()
    assert (result["sent"], result["ok"], result["failed"]) == (1000, 900, 100)
    assert result["verdict"] == "REFUTED"
    assert result["targets"][0]["observed_ms"] is None


@pytest.mark.parametrize(("how", "key"), [(Outcome.OVER_CAP, "over_cap"), (Outcome.UNFINISHED, "unfinished")])
def test_arrivals_not_sent_or_not_ended_count_as_over(tmp_path, how, key):
    def tenth(block, due):
        outcome = np.where(np.arange(len(due)) % 10 == 3, how, Outcome.OK).astype(np.uint8)
        return Answers(np.full(len(due), 0.005), outcome)

    result = judge(store_run(tmp_path, plan(), tenth)).to_json()
    assert result[key] == 100
    assert result["sent"] + result["over_cap"] == 1000
    assert result["verdict"] == "REFUTED"


def test_errors_and_rate_are_targets_beside_latency(tmp_path):
    def serve(every):
        def answers(block, due):
            outcome = np.where(np.arange(len(due)) % every == 7, Outcome.ERROR, Outcome.OK).astype(np.uint8)
            return Answers(np.full(len(due), 0.005), outcome)

        return answers

    promised = plan("p95=45ms", "errors=1%", "rate=98/s", seconds=30.0)
    good = judge(store_run(tmp_path / "good", promised, serve(1000)))
    assert good.verdict is Verdict.CONFIRMED
    errors, rate = good.to_json()["targets"][1:]
    assert (errors["observed"], errors["unit"], errors["limit_ms"]) == (pytest.approx(0.1), "%", None)
    assert (rate["observed"], rate["unit"]) == (pytest.approx(99.9), "/s")
    bad = judge(store_run(tmp_path / "bad", promised, serve(20)))
    assert [result.verdict for result in bad.targets] == [Verdict.INCONCLUSIVE, Verdict.REFUTED, Verdict.REFUTED]


def test_a_run_that_may_stop_early_is_judged_at_the_first_look_that_decides(tmp_path):
    run = store_run(tmp_path, plan("p95=45ms", seconds=80.0, until_decided=True), quick)
    write_record(run, replace(read_record(run), measured_s=10.0))
    found = judge(run)
    assert (found.verdict, found.judged_s, found.looks) == (Verdict.CONFIRMED, 5.0, 1)
    assert found.targets[0].certificate.samples == 500
    # 0 of 500 over is enough for p95 and not for p99, which takes 459 at 99 % and more at what a look may spend.
    other = judge(run, (parse_target("p99=45ms"),))
    assert (other.verdict, other.judged_s, other.looks) == (Verdict.CONFIRMED, 10.0, 2)
    write_record(run, replace(read_record(run), measured_s=None))
    far = judge(run, (parse_target("p99.9=45ms"),))
    assert (far.judged_s, far.looks, far.targets[0].certificate.samples) == (80.0, 5, 8000)


def test_a_run_that_was_interrupted_is_judged_as_far_as_it_went_and_confirms_nothing(tmp_path):
    run = store_run(tmp_path / "good", plan(seconds=60.0), quick, interrupted="interrupted")
    write_record(run, replace(read_record(run), measured_s=30.0))
    found = judge(run)
    assert (found.verdict, found.targets[0].verdict) == (Verdict.INCONCLUSIVE, Verdict.CONFIRMED)
    assert found.reasons[0].startswith("interrupted after 30 s of 60 s; that part is judged")
    assert found.tallies["candidate"].sent == 3000


def stopped_by_hand(folder, blocks):
    """A comparison of 8 pairs that was stopped in the middle of the block after so many."""
    run = store_run(folder, plan(seconds=40.0, baseline_url="http://127.0.0.1:9", pairs=8), quick)
    record = read_record(run)
    cut = sample_path(run, blocks, 0)
    header, _, rows = cut.read_bytes().partition(b"\n")
    cut.write_bytes(header + b"\n" + rows[: 100 * 31])
    for block in record.blocks[blocks + 1 :]:
        sample_path(run, block.index, 0).unlink()
    kept = [entry for entry in record.books if entry.block < blocks]
    last = replace(record.books[blocks], scheduled=100, outcomes={"OK": 100})
    write_record(run, replace(record, books=(*kept, last), interrupted="interrupted"))
    return run


@pytest.mark.parametrize(("blocks", "pairs"), [(9, 4), (8, 4), (7, 2), (4, 2), (3, 0)])
def test_a_comparison_that_was_stopped_by_hand_is_judged_by_its_whole_groups_and_finds_nothing(tmp_path, blocks, pairs):
    run = stopped_by_hand(tmp_path, blocks)
    found = judge(run)
    assert found.record.interrupted == "interrupted"
    if not pairs:
        assert (found.verdict, found.reasons[0]) == (Verdict.INVALID, "the run was cut short: interrupted")
        return
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reasons[0].startswith(f"interrupted after {5 * pairs} s of 40 s; that part is judged")
    assert {side: books.sent for side, books in found.tallies.items()} == dict.fromkeys(found.tallies, 500 * pairs)
    assert [block.side[0] for block in found.record.blocks[:4]] in (list("cbbc"), list("bccb"))
    assert len(found.record.blocks) == 2 * pairs
    assert {each.finding for each in found.contrasts} == {"not comparable"}
    assert (found.contrast.ratio is not None) == (pairs == 4)
    assert found.contrast.reason == ("stopped by hand" if pairs == 4 else found.contrast.reason)
    assert found.payloads["candidate"] == found.payloads["baseline"]
    assert "interrupted" in write_report(run, found).read_text(encoding="utf-8")
    assert judge(run, (parse_target("p95=1ms"),)).verdict is Verdict.REFUTED


def test_failures_in_the_warm_up_are_never_excused(tmp_path):
    def cold(block, due):
        outcome = np.where(due < 1.0, Outcome.ERROR, Outcome.OK).astype(np.uint8)
        return Answers(np.full(len(due), 0.005), outcome)

    found = judge(store_run(tmp_path, plan(), cold))
    assert found.targets[0].certificate.over == 100
    assert found.verdict is not Verdict.CONFIRMED


def test_a_slow_start_is_cut_off_and_said(tmp_path):
    def cold(block, due):
        return Answers(np.where(due < 2.0, 0.1, 0.005))

    found = judge(store_run(tmp_path, plan(), cold))
    assert found.verdict is Verdict.CONFIRMED
    assert found.steady.start_s == pytest.approx(2.0)
    assert any("200 answers" in reason and "warm-up" in reason for reason in found.reasons)


def test_an_overloaded_server_is_not_confirmed_by_a_short_run(tmp_path):
    def overloaded(block, due):
        return Answers(queue_latency(due, np.full(len(due), 0.0102)))

    found = judge(store_run(tmp_path, plan("p50=1s", seconds=20.0), overloaded))
    assert found.targets[0].observed < 1.0
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "unstable at this rate" in found.reasons[0]


def test_differences_far_below_the_limit_do_not_withhold_a_confirmation(tmp_path):
    def breathing(block, due):
        return Answers(np.where((due // 3) % 2 == 0, 0.002, 0.0024))

    found = judge(store_run(tmp_path, plan(), breathing))
    assert not found.steady.stable
    assert found.verdict is Verdict.CONFIRMED


def test_a_late_client_is_invalid_unless_the_server_met_its_targets_all_the_same(tmp_path):
    def late(took):
        def serve(block, due):
            delay = np.where(np.arange(len(due)) % 20 == 0, 0.010, 0.0)
            return Answers(took + delay, late=delay)

        return serve

    refused = judge(store_run(tmp_path / "slow", plan(), late(0.1)))
    assert refused.verdict is Verdict.INVALID
    assert refused.targets[0].verdict is Verdict.INVALID
    assert "bottleneck" in refused.reasons[0]
    good = judge(store_run(tmp_path / "quick", plan(), late(0.005)))
    assert good.verdict is Verdict.CONFIRMED
    assert any("charged to the server" in reason for reason in good.reasons)


def test_a_client_that_falls_behind_the_rate_is_invalid(tmp_path):
    def slowing(block, due):
        return Answers(0.05 * due + 0.005, late=0.05 * due)

    found = judge(store_run(tmp_path, plan("p95=2s"), slowing))
    assert found.verdict is Verdict.INVALID
    assert "less than scheduled" in found.reasons[0]


def test_no_samples_is_invalid(tmp_path):
    run = store_run(tmp_path, plan(), quick)
    sample_path(run, 0, 0).unlink()
    found = judge(run)
    assert found.verdict is Verdict.INVALID
    assert "no samples" in found.reasons[0]
    assert found.to_json()["targets"][0]["observed_ms"] is None


def test_a_lost_worker_is_invalid_and_its_samples_are_still_counted(tmp_path):
    run = store_run(tmp_path, plan(workers=2), quick, lost=(0, 1))
    file = sample_path(run, 0, 1)
    file.write_bytes(file.read_bytes()[:-40])  # one whole record and half of another never reached the disk
    found = judge(run)
    assert found.verdict is Verdict.INVALID
    assert "worker 1 in block 0 was lost: exit status -9" in found.reasons[0]
    assert found.tallies["candidate"].sent == 998


def test_samples_that_the_books_do_not_know_are_invalid(tmp_path):
    run = store_run(tmp_path, plan(), quick)
    file = sample_path(run, 0, 0)
    file.write_bytes(file.read_bytes()[:-31])
    found = judge(run)
    assert found.verdict is Verdict.INVALID
    assert "its books say OK 1000, its samples OK 999" in found.reasons[0]


def test_an_interrupted_run_is_invalid(tmp_path):
    assert judge(store_run(tmp_path, plan(), quick, interrupted="Ctrl-C")).verdict is Verdict.INVALID


def test_another_bundle_than_expected_is_invalid(tmp_path):
    assert judge(store_run(tmp_path / "a", plan(expect_digest=DIGEST), quick)).verdict is Verdict.CONFIRMED
    other = judge(store_run(tmp_path / "b", plan(expect_digest="c" * 64), quick))
    assert other.verdict is Verdict.INVALID
    assert "not the expected one" in other.reasons[0]


def test_a_bundle_that_changes_during_the_run_is_invalid(tmp_path):
    def swapped(block, due):
        return replace(quick(block, due), digests={DIGEST: 600, "c" * 64: 400})

    found = judge(store_run(tmp_path, plan(), swapped))
    assert found.verdict is Verdict.INVALID
    assert "changed during the run" in found.reasons[0]


def test_a_stored_run_is_judged_again_by_other_targets(tmp_path):
    run = store_run(tmp_path, plan("p95=45ms"), quick)
    assert judge(run, (parse_target("p95=3ms"),)).verdict is Verdict.REFUTED
    assert judge(run, (parse_target("mean=4ms"),)).verdict is Verdict.REFUTED
    with pytest.raises(InvalidInput, match="timeout"):
        judge(run, (parse_target("p95=9s"),))


def test_a_folder_without_a_run_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        judge(tmp_path)


def baseline_plan(**changes):
    return plan(
        "p95=45ms", **{"baseline_url": "http://127.0.0.1:9000", "pairs": 20, "seconds": 40.0, "rate": 200.0, **changes}
    )


def test_the_same_server_on_both_sides_is_never_called_faster_and_the_interval_holds_one(tmp_path):
    noise, holds, findings = np.random.default_rng(11), 0, set()
    for run in range(20):
        drift = iter(np.linspace(1.0, 3.0, 40))  # the machine slows down threefold over the run

        def serve(block, due, drift=drift):
            return Answers(0.004 * next(drift) * (0.8 + noise.gamma(4.0, 0.05, len(due))))

        found = judge(store_run(tmp_path / str(run), baseline_plan(seed=run), serve)).contrast
        holds += found.low <= 1.0 <= found.high
        findings.add(found.finding)
    assert holds >= 19
    assert "faster" not in findings


def test_a_baseline_nearly_three_times_slower_is_found_and_the_drawn_order_is_kept(tmp_path):
    def serve(block, due):
        base = 0.045 if block.side == "baseline" else 0.016
        return Answers(base * (0.9 + 0.1 * np.random.default_rng(block.index).random(len(due))))

    result = judge(store_run(tmp_path, baseline_plan(arrivals="poisson"), serve)).to_json()
    assert result["verdict"] == "CONFIRMED"
    baseline = result["baseline"]
    assert baseline["finding"] == "faster"
    assert baseline["ratio_low"] < 45 / 16 < baseline["ratio_high"]
    assert baseline["engine"] == "pytorch"
    order = baseline["order"]
    assert len(order) == 40
    assert all(order[at] == order[at + 3] != order[at + 1] == order[at + 2] for at in range(0, 40, 4))
    assert len({tuple(order[at : at + 4]) for at in range(0, 40, 4)}) == 2


def test_sides_with_other_payloads_are_invalid(tmp_path):
    run = store_run(tmp_path, baseline_plan(), quick)
    file = sample_path(run, 3, 0)
    content = bytearray(file.read_bytes())
    content[-7] ^= 1  # the last record's payload
    file.write_bytes(content)
    found = judge(run)
    assert found.verdict is Verdict.INVALID
    assert "other payloads" in found.reasons[0]
    assert found.contrast.finding == "not comparable"


def test_a_record_whose_order_is_not_the_drawn_one_is_refused(tmp_path):
    run = store_run(tmp_path, baseline_plan(), quick)
    record = read_record(run)
    write_record(run, replace(record, blocks=tuple(reversed(record.blocks))))
    with pytest.raises(InvalidInput, match="blocks"):
        judge(run)


def test_a_queue_whose_p95_is_exactly_at_the_limit_is_seldom_confirmed(tmp_path):
    random, confirmed, runs = np.random.default_rng(5), 0, 60
    limit = -math.log(0.05) / 300.0  # M/M/1 with 1,000 services a second at 700 arrivals: latency is Exp(300/s)
    made = plan(rate=700.0, seconds=5.0, arrivals="poisson", targets=(replace(parse_target("p95=9ms"), limit=limit),))

    def serve(block, due):
        # A start from the stationary distribution: 2,000 earlier arrivals.
        before = np.sort(-random.uniform(0.0, 2000 / 700.0, 2000))
        service = random.exponential(0.001, len(due) + 2000)
        return Answers(queue_latency(np.concatenate([before, due]), service)[2000:])

    for run in range(runs):
        found = judge(store_run(tmp_path / str(run), replace(made, seed=run), serve))
        confirmed += found.verdict is Verdict.CONFIRMED
    assert confirmed <= 0.08 * runs


def test_a_claim_about_both_sides_needs_the_baseline_near_what_was_said(tmp_path):
    def serve(block, due):
        base = 0.120 if block.side == "baseline" else 0.030
        return Answers(base * (0.8 + 0.2 * np.random.default_rng(block.index).random(len(due))))

    def claimed(text):
        targets = (parse_target(text),)
        return judge(store_run(tmp_path / text[4:9], baseline_plan(targets=targets), serve))

    near = claimed("p95=120ms->45ms")
    assert near.verdict is Verdict.CONFIRMED
    assert "the baseline's is 11" in near.targets[0].reason
    far = claimed("p95=200ms->45ms")
    assert far.verdict is Verdict.REFUTED
    assert "not near 200 ms" in far.targets[0].reason
    assert [each["metric"] for each in far.to_json()["baseline"]["quantiles"]] == ["p95", "p50", "p99"]
    assert {each["finding"] for each in far.to_json()["baseline"]["quantiles"]} == {"faster"}


def test_a_stored_run_is_a_baseline_that_proves_less(tmp_path):
    def slow(block, due):
        return Answers(2.0 * quick(block, due).latency)

    old = store_run(tmp_path / "old", plan(seed=2), slow)
    found = judge(store_run(tmp_path / "new", plan(baseline_run=str(old)), quick))
    assert found.verdict is Verdict.CONFIRMED
    assert found.contrast.finding == "faster"
    assert found.contrast.low < 2.0 < found.contrast.high
    assert any("proves more" in reason for reason in found.reasons)
    json.dumps(found.to_json(), allow_nan=False)
    other = judge(store_run(tmp_path / "other", plan(baseline_run=str(old), rate=50.0), quick))
    assert other.contrast.finding == "not comparable"
    assert "other rate" in other.contrast.reason
