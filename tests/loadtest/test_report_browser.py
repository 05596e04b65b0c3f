"""The report in a real browser: on a phone, on a desk, on paper, and as a screen reader is told it."""

import numpy as np
import pytest

from nlpdeploy.loadtest.report import write_report
from nlpdeploy.loadtest.verdict import judge
from support.chromium import browse, measure, needs_chromium
from support.loadruns import Answers, plan, store_run

pytestmark = [needs_chromium, pytest.mark.timeout(300)]

SCRIPT = """({
  mode: d.compatMode,
  viewport: d.documentElement.clientWidth,
  width: d.documentElement.scrollWidth,
  lang: d.documentElement.lang,
  headings: [...d.querySelectorAll("h1,h2,h3")].map(h => h.tagName),
  mains: d.querySelectorAll("main").length,
  figures: [...d.querySelectorAll("svg")].map(s => [s.getAttribute("role"), s.getAttribute("aria-label"),
    Math.round(s.getBoundingClientRect().width), Math.round(s.getBoundingClientRect().height),
    s.querySelectorAll("path").length]),
  captions: d.querySelectorAll("figcaption").length,
  bare: [...d.querySelectorAll("th")].filter(t => !t.scope).length,
  headless: [...d.querySelectorAll("table")].filter(t => !t.querySelector("th")).length,
  small: Math.min(...[...d.querySelectorAll("p,td,th,li")].map(e => parseFloat(getComputedStyle(e).fontSize))),
  faint: [...d.querySelectorAll("p,td,th,li,figcaption,.verdict")].map(e => {
    const light = c => { const [r, g, b] = c.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126*r + 0.7152*g + 0.0722*b; };
    const s = getComputedStyle(e), own = s.backgroundColor, back = own.endsWith(", 0)") ? "rgb(255,255,255)" : own;
    const [high, low] = [light(s.color), light(back)].sort((a, b) => b - a); return (high + 0.05) / (low + 0.05);
  }).filter(c => c < 4.5).length,
  text: d.body.innerText
})"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    def serve(block, due):
        base = 0.030 if block.side == "baseline" else 0.005
        return Answers(base + 0.004 * np.random.default_rng(block.index).exponential(size=len(due)))

    made = plan("p95=45ms", "mean=20ms", baseline_url="http://127.0.0.1:9000", pairs=8)
    run = store_run(tmp_path_factory.mktemp("page") / "run", made, serve)
    return write_report(run, judge(run))


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_sticks_out_on_a_phone_or_on_a_desk(page, width):
    seen = measure(page, width, SCRIPT)
    assert seen["mode"] == "CSS1Compat"
    assert width - 20 <= seen["viewport"] <= width
    assert seen["width"] <= seen["viewport"]
    assert seen["small"] >= 13
    for _, _, wide, high, paths in seen["figures"]:
        assert 200 < wide <= seen["viewport"]
        assert high > 50
        assert paths > 10
    assert "CONFIRMED" in seen["text"]


def test_a_screen_reader_is_told_what_each_figure_and_cell_is(page):
    seen = measure(page, 1000, SCRIPT)
    assert (seen["lang"], seen["mains"]) == ("en", 1)
    assert seen["headings"][0] == "H1"
    assert set(seen["headings"][1:]) == {"H2"}
    assert len(seen["figures"]) == seen["captions"] == 5
    assert all(role == "img" and len(label) > 20 for role, label, *_ in seen["figures"])
    assert len({label for _, label, *_ in seen["figures"]}) == 5
    assert (seen["bare"], seen["headless"], seen["faint"]) == (0, 0, 0)


def test_it_prints(page, tmp_path):
    browse(page, f"--print-to-pdf={tmp_path / 'page.pdf'}", "--no-pdf-header-footer")
    content = (tmp_path / "page.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert 2 <= content.count(b"/Type /Page\n") <= 8
