import re
from html.parser import HTMLParser

import numpy as np

from nlpdeploy.loadtest.assess import lay_out
from nlpdeploy.loadtest.figures import half_width, in_flight
from nlpdeploy.loadtest.report import write_report
from nlpdeploy.loadtest.samples import Outcome, read_record, read_samples, sample_path
from nlpdeploy.loadtest.verdict import judge
from support.loadruns import Answers, plan, store_run


def serve(block, due):
    base = 0.030 if block.side == "baseline" else 0.005
    return Answers(base + 0.001 * np.random.default_rng(block.index).random(len(due)))


def text_of(page):
    parts = []
    parser = HTMLParser()
    parser.handle_data = parts.append
    parser.feed(page)
    return " ".join(" ".join(parts).split())


def test_the_page_says_the_verdict_the_books_and_where_it_comes_from(tmp_path):
    run = store_run(tmp_path, plan("p95=45ms", "mean=20ms"), serve)
    path = write_report(run, judge(run))
    page = path.read_text(encoding="utf-8")
    text = text_of(page)
    assert path == tmp_path / "report.html"
    assert "CONFIRMED" in text
    assert "0 of 1000" in text
    assert "d" * 64 in text
    assert "a" * 64 in text
    assert "onnx-int8" in text
    assert page.count("<svg") == 4


def test_the_page_needs_nothing_beside_it(tmp_path):
    run = store_run(tmp_path, plan(), serve)
    page = write_report(run, judge(run)).read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img|iframe)\b", page)
    fetched = re.findall(r"(?:src|href)=\"([^\"#][^\"]*)\"", page)
    assert fetched == []


def test_the_page_of_a_comparison_shows_the_ratio_its_interval_and_the_drawn_order(tmp_path):
    made = plan("p95=45ms", baseline_url="http://127.0.0.1:9000", pairs=8)
    run = store_run(tmp_path, made, serve)
    found = judge(run)
    text = text_of(write_report(run, found).read_text(encoding="utf-8"))
    assert f"{found.contrast.low:.2f} to {found.contrast.high:.2f}" in text
    order = re.search(r"C candidate, B baseline\): ((?:[CB]{4} ?)+)", text)[1].split()
    assert len(order) == 4
    assert set(order) <= {"CBBC", "BCCB"}


def test_runs_without_good_answers_and_without_samples_still_have_a_page(tmp_path):
    def broken(block, due):
        return Answers(np.full(len(due), 0.01), np.full(len(due), Outcome.ERROR, dtype=np.uint8))

    run = store_run(tmp_path, plan("p95=45ms", "mean=10ms"), broken)
    assert "REFUTED" in text_of(write_report(run, judge(run)).read_text(encoding="utf-8"))
    sample_path(run, 0, 0).unlink()
    assert "no samples" in text_of(write_report(run, judge(run)).read_text(encoding="utf-8"))


def test_names_are_escaped(tmp_path):
    run = store_run(tmp_path, plan(model="<b>intent</b>"), serve)
    page = write_report(run, judge(run)).read_text(encoding="utf-8")
    assert "<b>intent" not in page
    assert "&lt;b&gt;intent" in page


def test_the_band_around_the_distribution_holds_the_true_curve_as_often_as_it_says():
    random, missed = np.random.default_rng(7), 0
    for _ in range(2000):
        drawn = np.sort(random.random(200))
        share = np.arange(1, 201) / 200
        missed += max(np.max(share - drawn), np.max(drawn - share + 1 / 200)) > half_width(200, 0.9)
    assert 0.05 < missed / 2000 <= 0.115
    assert half_width(1e6, 0.99) < 0.002
    assert half_width(0.0, 0.99) == 1.0


def test_requests_in_flight_are_counted_up_when_sent_and_down_when_answered(tmp_path):
    run = store_run(tmp_path, plan(rate=10.0, seconds=1.0), lambda block, due: Answers(np.full(len(due), 0.25)))
    record = read_record(run)
    at, count = in_flight(lay_out(record, read_samples(run, "candidate"), "candidate"))
    assert count[np.searchsorted(at, [0.05, 0.15, 0.22, 0.98], side="right") - 1].tolist() == [1, 2, 3, 2]
    assert count[-1] == 0
