"""Labels that a bundle gives of itself: which ones, for which texts, and what a server that answers others is told."""

import dataclasses
import json
from pathlib import Path

from nlpdeploy.bundle.digest import read_manifest
from nlpdeploy.bundle.specs import Task
from nlpdeploy.loadtest.driver import run
from nlpdeploy.loadtest.golden import GOLDEN_FILE, golden_labels, keep_golden
from nlpdeploy.loadtest.payloads import read_payloads
from nlpdeploy.loadtest.plan import Plan
from nlpdeploy.loadtest.report import write_report
from nlpdeploy.loadtest.samples import Outcome, ServerFacts, read_record, read_samples
from nlpdeploy.loadtest.targets import parse_target
from nlpdeploy.loadtest.verdict import judge
from support.null_server import null_server
from support.tiny_bundle import GOLDEN_TEXTS, publish_tiny_bundle


def test_a_golden_label_counts_where_the_reference_preferred_it_clearly(tmp_path: Path) -> None:
    manifest = read_manifest(publish_tiny_bundle(tmp_path).path)
    known = golden_labels(manifest)
    assert {text for text, _ in known} == set(GOLDEN_TEXTS)
    for sample in manifest.golden:
        assert sample.logits[manifest.model.labels.index(known[sample.text, None])] == max(sample.logits)
    leads = sorted(sorted(sample.logits)[-1] - sorted(sample.logits)[-2] for sample in manifest.golden)
    (entry,) = manifest.engines
    assert entry.parity is not None
    loose = dataclasses.replace(entry, parity=dataclasses.replace(entry.parity, flip_margin=leads[1]))
    assert len(golden_labels(dataclasses.replace(manifest, engines=(loose,)))) == len(leads) - 2
    regression = dataclasses.replace(manifest.model, task=Task.REGRESSION)
    assert golden_labels(dataclasses.replace(manifest, model=regression)) == {}


def test_the_bundle_is_known_by_its_digest_in_any_version_and_holds_its_own_answers_alone(tmp_path: Path) -> None:
    old = publish_tiny_bundle(tmp_path / "store")
    publish_tiny_bundle(tmp_path / "store", change=lambda manifest: dataclasses.replace(manifest, created="later"))
    digest = read_manifest(old.path).digest
    (tmp_path / "texts.txt").write_text(f"{GOLDEN_TEXTS[0]}\nanother\n{GOLDEN_TEXTS[1]}\n", encoding="utf-8")
    payloads = read_payloads(tmp_path / "texts.txt")

    def kept(candidate: str | None, baseline: str | None, model: str = "tiny") -> object:
        servers = {"candidate": ServerFacts("grpc://h:1", candidate), "baseline": ServerFacts("grpc://h:2", baseline)}
        return keep_golden(tmp_path / "store", model, servers, payloads, tmp_path / "run")  # type: ignore[arg-type]

    for found, sides in ((kept(digest, None), ["candidate"]), (kept(digest, digest), ["candidate", "baseline"])):
        assert found is not None
        assert found.to_json() == {"rows": 2, "sides": sides, "digest": digest}  # type: ignore[attr-defined]
    labels = json.loads((tmp_path / "run" / GOLDEN_FILE).read_text(encoding="utf-8"))
    assert [label is None for label in labels] == [False, True, False]
    for nothing in (kept("f" * 64, digest), kept(None, None), kept(digest, None, "other"), kept(digest, None, "..")):
        assert nothing is None


def test_a_server_that_answers_one_label_to_everything_fails_at_its_bundles_golden_texts(tmp_path: Path) -> None:
    manifest = read_manifest(publish_tiny_bundle(tmp_path / "store").path)
    labels = golden_labels(manifest)
    texts = [*GOLDEN_TEXTS, "any other text"]
    constant = labels[GOLDEN_TEXTS[0], None]
    wrong = sum(label != constant for label in labels.values())
    assert wrong > 0
    data = tmp_path / "texts.txt"
    data.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    with null_server("--model", "tiny", "--digest", manifest.digest, "--wrong-label", constant) as server:
        made = Plan(
            url=server.url("grpc"),
            model="tiny",
            data=read_payloads(data).source,
            targets=(parse_target("p95=500ms"),),
            rate=100.0,
            seconds=0.5,
            arrivals="constant",
            store=str(tmp_path / "store"),
        )
        run(made, tmp_path / "run")
    counts = read_samples(tmp_path / "run").counts()
    assert counts[Outcome.WRONG_ANSWER] == 50 * wrong / len(texts)
    assert counts[Outcome.OK] == 50 - counts[Outcome.WRONG_ANSWER]
    assert read_record(tmp_path / "run").machine["golden"]["rows"] == len(labels)
    page = write_report(tmp_path / "run", judge(tmp_path / "run")).read_text(encoding="utf-8")
    assert f"{len(labels)} of {len(texts)} texts are golden samples of bundle {manifest.digest[:12]}" in page
