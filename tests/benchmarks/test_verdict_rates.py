"""The verdict's error rates, in small: simulated servers whose percentiles are known, judged by the product's rule."""

import numpy as np
import pytest

from benchmarks.verdict import main
from benchmarks.verdict_cells import SIMULATED, Units, error_rates, power_at_advised_length, whole_judgement
from benchmarks.verdict_pairs import compare_servers
from benchmarks.verdict_servers import SERVERS, SHARES, Bursts
from nlpdeploy.loadtest.clusters import cut, inflation
from nlpdeploy.loadtest.looks import draw_looks

UTILISATIONS = (0.5, 0.8)
RUNS = 400


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("utilisation", UTILISATIONS)
def test_simulated_servers_have_the_percentiles_that_they_say(kind, utilisation):
    server, random = kind(utilisation), np.random.default_rng(1)
    server.start(random, 600)
    latency = np.concatenate([server.chunk(random, 1000) for _ in range(4)])
    for share in SHARES:
        beyond = float((latency > server.quantile(share)).mean())
        assert beyond == pytest.approx(1.0 - share, rel=0.2)


def test_few_runs_follow_the_same_recursion_as_many():
    few, many = Bursts(0.7), Bursts(0.7)
    start = np.random.default_rng(2).exponential(3.0, 600).astype(np.float32)
    few._latency, many._latency = start[:10].copy(), start.copy()
    gaps, services = np.random.default_rng(3).exponential(1.4, (2, 500, 600)).astype(np.float32)
    assert np.allclose(
        few._follow(gaps[:, :10].copy(), services[:, :10]), many._follow(gaps, services)[:, :10], atol=1e-2
    )


def test_units_of_many_runs_say_what_each_run_alone_says():
    latency = np.random.default_rng(5).gamma(2.0, 1.0, (4000, 7)).astype(np.float32)
    together = Units.of(latency, 4.0).batches(4000)
    each = [cut(latency[:, run].astype(np.float64), 4.0) for run in range(7)]
    assert np.allclose(inflation(together, 0.05), [float(inflation(run, 0.05)) for run in each], rtol=1e-3)
    assert np.array_equal(together.over, [float(run.over) for run in each])


@pytest.fixture(scope="module")
def rates():
    lengths = (1000, 2000, 4000)
    return [
        error_rates(kind(utilisation), (0.95,), lengths, RUNS, seed)[0.95]
        for seed, (kind, utilisation) in enumerate((kind, u) for kind in SERVERS for u in UTILISATIONS)
    ]


def test_a_server_at_its_limit_or_above_is_seldom_confirmed(rates):
    """At most 3.5 % of a cell, 1.5 % of the median one; 400 runs may show twice that by chance."""
    found = [cell.confirmed for each in rates for cell in each.fixed["at the limit"]]
    assert max(found) <= 0.07
    assert np.median(found) <= 0.015
    assert max(cell.confirmed for each in rates for cell in each.fixed["5 % above"]) <= 0.05
    assert max(each.sequential["at the limit"].confirmed for each in rates) <= 0.07


def test_a_server_within_its_limit_is_seldom_refuted_and_a_better_one_oftener_confirmed(rates):
    assert max(cell.refuted for each in rates for cell in each.fixed["5 % below"]) <= 0.02
    by_margin = {margin: np.mean([each.fixed[margin][-1].confirmed for each in rates]) for margin in SIMULATED}
    assert by_margin["5 % above"] < by_margin["at the limit"] < by_margin["5 % below"]


def test_a_run_of_the_advised_length_confirms_a_server_ten_percent_better():
    for kind in SERVERS[1:3]:
        assert power_at_advised_length(kind(0.5), 0.95, 3e6, 7, 150).confirmed >= 0.85


def test_the_whole_judgement_errs_no_more_than_the_count():
    assert whole_judgement(SERVERS[0](0.7), 0.95, 2000, 200, 8).confirmed <= 0.07


def test_looks_spend_no_more_than_one_look_at_the_end():
    for seconds in (3.0, 60.0, 600.0, 86_400.0):
        looks = draw_looks(seconds)
        assert looks[-1].at_s == seconds
        assert sum(1.0 - look.confidence for look in looks) == pytest.approx(0.01)
        assert len(looks) <= 8
        assert all(look.at_s >= 5.0 for look in looks[:-1])


@pytest.mark.parametrize("utilisation", [0.3, 0.6])
def test_a_server_against_itself_is_alike_in_19_of_20_comparisons_and_a_tenth_is_found_in_9_of_10(utilisation):
    same = compare_servers(utilisation, 1.0, 200, 4)
    assert same.holds_one >= 0.95
    assert compare_servers(utilisation, 1.1, 200, 5).faster >= 0.90
    assert compare_servers(utilisation, 1 / 1.1, 200, 6).slower >= 0.90


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_real_server_against_itself_by_a_whole_load_test(capsys):
    assert main(["--real", "1", "--first-seed", "3"]) == 0
    assert "intervals with 1: 1 of 1; faster: 0" in capsys.readouterr().out
