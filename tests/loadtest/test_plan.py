import json

import pytest

from nlpdeploy.bundle.errors import InvalidInput
from nlpdeploy.loadtest.plan import Plan, draw_blocks
from nlpdeploy.loadtest.targets import parse_duration, parse_rate, parse_target
from support.loadruns import plan


@pytest.mark.parametrize(
    ("text", "seconds"), [("45ms", 0.045), ("1s", 1.0), ("2m", 120.0), ("1.5s", 1.5), ("250us", 0.00025), ("1h", 3600)]
)
def test_durations_have_a_unit(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["45", "ms", "-1s", "0s", "1 fortnight", "", "nan", "1e3s", "infs"])
def test_other_durations_are_refused_with_how_to_mend(text):
    with pytest.raises(InvalidInput, match="45ms"):
        parse_duration(text)


def test_rates_are_requests_a_second():
    assert parse_rate("200/s") == parse_rate("200") == 200.0
    for text in ("0", "-5", "200/m", "fast", "nan", ""):
        with pytest.raises(InvalidInput, match="rate"):
            parse_rate(text)


def test_targets_are_a_metric_and_a_limit():
    p95 = parse_target("p95=45ms")
    assert (p95.metric, p95.share, p95.limit, p95.text) == ("p95", 0.95, pytest.approx(0.045), "p95=45ms")
    assert parse_target("p99.9=1s").share == 0.999
    assert parse_target("mean=10ms").share is None
    errors, rate, faster = parse_target("errors=0.1%"), parse_target("rate=200/s"), parse_target("p95=120ms->45ms")
    assert (errors.limit, errors.unit, errors.is_latency) == (pytest.approx(0.001), "%", False)
    assert (rate.limit, rate.unit, rate.is_latency) == (200.0, "/s", False)
    assert (faster.limit, faster.was_s, faster.share) == (pytest.approx(0.045), pytest.approx(0.120), 0.95)


@pytest.mark.parametrize(
    "text",
    [
        "p95",
        "p95=45",
        "p0=1s",
        "p100=1s",
        "q95=45ms",
        "p95<45ms",
        "=45ms",
        "p95=",
        "max=1s",
        "errors=0.1",
        "errors=0%",
        "errors=100%",
        "rate=200",
        "p95=120->45ms",
        "p95=120ms->45",
    ],
)
def test_bad_targets_say_what_is_wanted_in_one_line(text):
    with pytest.raises(InvalidInput) as caught:
        parse_target(text)
    line = caught.value.line()
    assert text in line
    assert "write p95=45ms" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"rate": 0.0}, "rate"),
        ({"rate": float("inf")}, "rate"),
        ({"seconds": -1.0}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"workers": 0}, "workers"),
        ({"max_in_flight": 1, "workers": 2}, "in flight"),
        ({"seed": -1}, "seed"),
        ({"arrivals": "bursty"}, "arrivals"),
        ({"url": "ftp://host"}, "url"),
        ({"url": "127.0.0.1:8000"}, "url"),
        ({"targets": ()}, "targets"),
        ({"timeout_s": 0.045}, "timeout"),
        ({"pairs": 4}, "pairs"),
        ({"targets": (parse_target("rate=101/s"),)}, "rate"),
        ({"targets": (parse_target("p95=120ms->45ms"),)}, "baseline"),
        ({"until_decided": True, "baseline_url": "http://127.0.0.1:1", "pairs": 4}, "until decided"),
        ({"baseline_url": "http://127.0.0.1:1", "pairs": 5}, "pairs"),
        ({"baseline_url": "http://127.0.0.1:1", "pairs": 2}, "pairs"),
    ],
)
def test_a_plan_that_can_not_be_run_is_refused_before_any_traffic(changes, word):
    with pytest.raises(InvalidInput, match=word):
        plan(**changes)


def test_two_targets_on_one_metric_are_refused():
    with pytest.raises(InvalidInput, match="each metric once"):
        plan("p95=45ms", "p95=50ms")


def test_a_plan_survives_json():
    made = plan("p95=45ms", "mean=10ms", baseline_url="grpc://127.0.0.1:9001", pairs=8, version="3")
    assert Plan.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_a_stored_plan_with_other_keys_is_refused():
    stored = plan().to_json()
    with pytest.raises(InvalidInput, match="stored plan"):
        Plan.from_json({**stored, "colour": "blue"})
    del stored["data"]
    with pytest.raises(InvalidInput, match="stored plan"):
        Plan.from_json(stored)


def test_without_a_baseline_there_is_one_block():
    (block,) = draw_blocks(plan(seed=9))
    assert (block.index, block.side, block.seed) == (0, "candidate", 9)


def test_blocks_are_drawn_as_abba_or_baab_and_the_lot_depends_on_the_seed():
    orders = set()
    for seed in range(8):
        blocks = draw_blocks(plan(seed=seed, baseline_url="http://127.0.0.1:1", pairs=8))
        assert [block.index for block in blocks] == list(range(16))
        sides = "".join(block.side[0] for block in blocks)
        assert {sides[at : at + 4] for at in range(0, 16, 4)} <= {"cbbc", "bccb"}
        for pair in range(8):
            one, other = (block for block in blocks if block.pair == pair)
            assert one.seed == other.seed
            assert one.side != other.side
        assert len({block.seed for block in blocks}) == 8
        orders.add(sides)
    assert len(orders) > 4
