"""The report: everything that was measured is on the page, and the page needs nothing else."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from nlpdeploy.bundle.errors import StoreFailed
from nlpdeploy.bundle.evidence import Accuracy, Latency, LatencyCurve
from nlpdeploy.bundle.manifest import EngineEntry, Manifest, Source, to_plain
from nlpdeploy.bundle.specs import EngineState, Layout
from nlpdeploy.export.parity import parity_grid, reference_answers
from nlpdeploy.export.report import write_report
from support.linear_engines import TEXTS, LinearEngine, encoder, model
from support.parity import check_parity

VOID = {"meta", "path", "use", "br", "img", "rect"}


class Page(HTMLParser):
    """Counts what a browser would fetch and whether tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.fetched += [given[name] for name in ("src", "href", "xlink:href", "data") if name in given]
        self.ids += [given["id"]] if "id" in given else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def parity(tmp_path_factory):
    tokens = encoder(tmp_path_factory.mktemp("tokenizer"))
    answers = reference_answers(
        LinearEngine(), parity_grid(tokens, TEXTS, None, model()), tokens.encode(TEXTS), model()
    )

    def near_ties_flip(logits, feed):
        order = np.sort(logits, axis=1)
        near = order[:, -1] - order[:, -2] < 5.0
        return np.where(near[:, None] & (logits == order[:, -2:-1]), logits + 5.1, logits).astype(np.float32)

    return {
        "onnx-fp32": check_parity(LinearEngine(), "fp32", answers, model()),
        "onnx-int8": check_parity(LinearEngine(change=near_ties_flip), "int8", answers, model()),
        "onnx-fp16": check_parity(LinearEngine(change=lambda x, feed: x * np.nan), "fp16", answers, model()),
    }


def manifest(parity, **changes):
    curve = LatencyCurve(1e-3, 1e-5, 1e-5, 1e-8, tuple((n, k, 1e-3 + 1e-5 * n * k) for n in (1, 8) for k in (8, 64)))

    def entry(name, precision, p50, accuracy):
        return EngineEntry(
            name, "onnxruntime", precision, Layout.PADDED, EngineState.READY, size_bytes=23_400_000,
            parity=replace(parity[name], cases=()), latency=Latency(p50, 2 * p50, 4.65 / p50, 900.0, 1200),
            accuracy=Accuracy(3080, accuracy, 0.918, 0.9188 - accuracy, 0.002), curve=curve,
            options={"scheme": "dynamic, per channel"}, valid_for={"isa": "avx512_vnni"},
        )  # fmt: skip

    engines = (
        entry("onnx-fp32", "fp32", 1.69, 0.9188),
        entry("onnx-int8", "int8", 0.99, 0.9201),
        EngineEntry(
            "onnx-fp16", "onnxruntime", "fp16", Layout.PADDED, EngineState.FAILED, parity["onnx-fp16"].reason,
            parity=replace(parity["onnx-fp16"], cases=()),
        ),
        EngineEntry("tensorrt-fp16", "tensorrt", "fp16", Layout.PADDED, EngineState.SKIPPED, "no NVIDIA GPU <here>"),
    )  # fmt: skip
    spec = replace(model(), labels=("正面", "負面", "<b>"))
    source = Source(
        "/models/intent", {"model.safetensors": "ab" * 32}, "cd" * 32, "BertForSequenceClassification", "bert",
        22_713_216, {"torch": "2.13.0"}, ("labels were read from config.json",),
    )  # fmt: skip
    values = {
        "engines": engines, "default_engine": "onnx-int8", "golden": (), "created": "2026-11-25T03:00:00+00:00",
        "reference_accuracy": Accuracy(3080, 0.9188, 0.918, 0.0, 0.001),
        "reference_latency": Latency(4.65, 7.1, 1.0, 811.0, 1200),
    } | changes  # fmt: skip
    return Manifest("intent", spec, source, **values)


def written(folder, parity, **changes):
    evidence = folder / "evidence"
    evidence.mkdir()
    (evidence / "parity.json").write_text(json.dumps({name: to_plain(result) for name, result in parity.items()}))
    write_report(manifest(parity, **changes), folder)
    return (evidence / "report.html").read_text(encoding="utf-8")


def parsed(html):
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


def test_the_page_is_whole_and_fetches_nothing(tmp_path, parity):
    html = written(tmp_path, parity)
    page = parsed(html)
    assert all(target.startswith("#") for target in page.fetched)
    assert "http:" not in html
    assert "https:" not in html
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert html.count("<svg") == 3


def test_what_figures_refer_to_is_there_once(tmp_path, parity):
    html = written(tmp_path, parity)
    page = parsed(html)
    assert len(set(page.ids)) == len(page.ids)
    referred = {target[1:] for target in page.fetched} | set(re.findall(r"url\(#([^)]+)\)", html))
    assert referred <= set(page.ids)


def test_every_number_of_the_engine_table_is_there(tmp_path, parity):
    text = parsed(written(tmp_path, parity)).text
    for number in ("0.9188", "0.9201", "0.99", "1.98", "4.7 x", "4.65", "23.4 MB", "811", "22,713,216", "+0.0013"):
        assert number in text
    result = parity["onnx-int8"]
    assert f"{result.flips} of {result.rows}" in text
    assert "ab" * 32 in text
    assert "labels were read from config.json" in text


def test_cases_flips_and_failures_are_told(tmp_path, parity):
    assert parity["onnx-int8"].flips > 0
    text = parsed(written(tmp_path, parity)).text
    for case in parity["onnx-fp32"].cases:
        assert case.name in text
    assert parity["onnx-fp16"].reason in text
    assert "✗" in text
    assert "no NVIDIA GPU <here>" in text, "escaped in the page, whole for the reader"
    assert "正面" in text
    assert "not finite" in text
    assert parity["onnx-int8"].flipped[0].reference in text


def test_an_export_without_a_serving_engine_has_a_report(tmp_path, parity):
    entries = tuple(
        replace(entry, state=EngineState.FAILED, reason="NaN in 3 of 4 rows", latency=None, accuracy=None, curve=None)
        for entry in manifest(parity).engines
    )
    html = written(
        tmp_path, parity, engines=entries, default_engine="", reference_accuracy=None, reference_latency=None
    )
    page = parsed(html)
    assert "No engine may serve" in page.text
    assert "NaN in 3 of 4 rows" in page.text
    assert str(math.inf) not in page.text


def test_without_the_full_evidence_the_manifest_is_enough(tmp_path, parity):
    write_report(manifest(parity), tmp_path)
    assert "onnx-int8" in parsed((tmp_path / "evidence/report.html").read_text(encoding="utf-8")).text


def test_the_same_export_writes_the_same_page(tmp_path, parity):
    pages = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        pages.append(written(tmp_path / name, parity))
    assert pages[0] == pages[1]


def test_a_page_that_cannot_be_written_says_where(tmp_path, parity):
    (tmp_path / "evidence").write_text("a file is in the way")
    with pytest.raises(StoreFailed, match=re.escape("report.html")):
        write_report(manifest(parity), tmp_path)
