"""The search for the capacity: its policy against made-up servers, and once against a real one."""

import json
import math
from pathlib import Path

import pytest

from nlpdeploy.loadtest.capacity import Probe, Search, bracket, conclude, next_rate
from nlpdeploy.loadtest.certify import Verdict
from nlpdeploy.loadtest.payloads import read_payloads
from nlpdeploy.loadtest.plan import Plan
from nlpdeploy.loadtest.probing import find_capacity, to_json
from nlpdeploy.loadtest.targets import parse_target
from support.null_server import null_server


def search_against(limit, search, unclear=1.0):
    """Probes of a server that meets its targets below ``limit``, and is unclear from there to ``unclear`` times it."""
    probes = []
    while (rate := next_rate(search, probes)) is not None:
        assert rate not in [probe.rate for probe in probes]
        missed = Verdict.REFUTED if rate > unclear * limit else Verdict.INCONCLUSIVE
        probes.append(Probe(rate, Verdict.CONFIRMED if rate < limit else missed, False, 10.0))
        assert len(probes) <= search.probes
    return probes


@pytest.mark.parametrize("limit", [11.0, 57.0, 333.0, 900.0])
def test_a_sharp_limit_is_found_within_the_precision_in_few_probes(limit):
    search = Search(10.0, 1000.0, 0.10, 14)
    probes = search_against(limit, search)
    found = conclude(search, probes)
    assert found.verdict is Verdict.CONFIRMED
    assert found.low < limit <= found.high
    assert found.high <= 1.10 * found.low
    assert len(probes) <= math.log2(1000 / 10) + 6


def test_an_unclear_stretch_is_narrowed_from_both_sides_and_ends():
    search = Search(10.0, 1000.0, 0.10, 20)
    found = conclude(search, search_against(100.0, search, unclear=1.3))
    assert found.low < 100.0 < 130.0 < found.high
    assert found.low > 80.0
    assert found.high < 170.0


def test_a_server_that_meets_the_highest_rate_has_no_upper_end():
    search = Search(10.0, 100.0)
    found = conclude(search, search_against(1e9, search))
    assert (found.verdict, found.low, found.high) == (Verdict.CONFIRMED, 100.0, None)


def test_a_server_that_misses_at_the_lowest_rate_is_refuted_by_one_probe():
    search = Search(10.0, 100.0)
    probes = search_against(5.0, search)
    assert len(probes) == 1
    assert conclude(search, probes).verdict is Verdict.REFUTED


def test_an_invalid_probe_ends_the_search_and_what_was_known_stands():
    search = Search(10.0, 1000.0)
    probes = [
        Probe(10.0, Verdict.CONFIRMED, False, 5.0),
        Probe(20.0, Verdict.INVALID, False, 5.0, reason="late client"),
    ]
    assert next_rate(search, probes) is None
    found = conclude(search, probes)
    assert (found.verdict, found.low) == (Verdict.CONFIRMED, 10.0)
    assert "late client" in found.reason
    assert conclude(search, probes[1:]).verdict is Verdict.INVALID


def test_a_saturated_probe_is_a_miss_and_a_rate_confirmed_above_it_is_mentioned():
    probes = [
        Probe(10.0, Verdict.CONFIRMED, False, 5.0),
        Probe(20.0, Verdict.INCONCLUSIVE, True, 5.0),
        Probe(40.0, Verdict.CONFIRMED, False, 5.0),
    ]
    assert bracket(probes) == (10.0, 20.0)
    assert "yet it was confirmed at 40/s" in conclude(Search(10.0, 100.0), probes).reason


def test_all_probes_together_are_as_sure_as_one_verdict():
    assert Search(1.0, 2.0, probes=10).confidence == pytest.approx(0.999)


def test_the_capacity_of_a_real_server_is_found_and_saturation_is_not_ridden_into(tmp_path: Path) -> None:
    """One request after the other, 4 ms each: 250 a second and no more."""
    data = tmp_path / "texts.csv"
    data.write_text("text\nWhere is my card?\nI lost my card\n", encoding="utf-8")
    with null_server("--serial-ms", "4") as server:
        plan = Plan(
            url=server.url("http"),
            model="intent",
            data=read_payloads(data).source,
            targets=(parse_target("p95=200ms"),),
            rate=1.0,
            seconds=40.0,
            timeout_s=1.0,
        )
        search = Search(150.0, 1200.0, precision=1.0, probes=2)
        found, probes = find_capacity(plan, search, tmp_path / "capacity")
    assert [probe.rate for probe in probes] == [150.0, 300.0]
    assert (found.low, found.high) == (150.0, 300.0), [probe.reason for probe in probes]
    overrun = probes[1]
    assert overrun.missed
    assert overrun.seconds <= 20.0  # 40 s of it were allowed
    stored = json.loads((tmp_path / "capacity" / "capacity.json").read_text())
    assert stored == to_json(plan.targets, search, found, list(probes))
    assert stored["capacity"]["low"] == 150.0
    assert (tmp_path / "capacity" / "capacity.svg").read_text().startswith("<svg")
