"""Which engines pass parity, which fail, and what the reason says."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest

from nlpdeploy.bundle.errors import EngineFailed
from nlpdeploy.bundle.evidence import ParityResult
from nlpdeploy.bundle.manifest import from_plain, to_plain
from nlpdeploy.bundle.specs import Task
from nlpdeploy.export.bounds import share_lower, share_upper
from nlpdeploy.export.parity import engine_answers, parity_grid, reference_answers
from support.linear_engines import TEXTS, LinearEngine, NamelessEngine, encoder, model, raising
from support.parity import check_parity
from support.shared import SHARED, needs_shared


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    tokens = encoder(tmp_path_factory.mktemp("tokenizer"))
    grid = parity_grid(tokens, TEXTS, None, model())
    return reference_answers(LinearEngine(), grid, tokens.encode(TEXTS), model())


def check(answers, change=None, precision="fp32", **options):
    return check_parity(LinearEngine("candidate", change=change), precision, answers, model(), **options)


def noise(size):
    return lambda logits, feed: logits + np.random.default_rng(logits.size).uniform(-size, size, logits.shape)


def test_the_grid_holds_every_corner(tmp_path):
    grid = parity_grid(encoder(tmp_path), TEXTS, None, model())
    sizes = [[len(row) for row in case.rows] for case in grid]
    assert [1] in sizes
    assert [96] in sizes, "the usable maximum"
    assert any(len(lengths) > 1 and min(lengths) == 1 and max(lengths) > 60 for lengths in sizes), (
        "one real token, padded"
    )
    assert any(96 in lengths and len(lengths) > 1 for lengths in sizes), "short beside the maximum"
    assert any(len(lengths) == 4 and len(set(lengths)) == 1 for lengths in sizes), "batch without padding"
    pairs = next(case for case in grid if "pairs" in case.name)
    assert all(set(row.token_type_ids.tolist()) == {0, 1} for row in pairs.rows[1:])
    assert len({len(row) for row in pairs.rows}) > 1


def test_rows_of_the_grid_are_real_text_with_the_closing_token(tmp_path):
    tokens = encoder(tmp_path)
    real = {int(i) for row in tokens.encode(TEXTS) for i in row.input_ids}
    for case in parity_grid(tokens, TEXTS, None, model()):
        for row in case.rows:
            assert set(row.input_ids.tolist()) <= real
            assert row.input_ids[0] == 2
            assert len(row) == 1 or row.input_ids[-1] == 3


def test_a_model_of_few_positions_gets_a_grid_within_them(tmp_path):
    grid = parity_grid(encoder(tmp_path, 5), ["the card"], None, model(max_length=5))
    assert max(len(row) for case in grid for row in case.rows) == 5


def test_the_exact_engine_passes_with_nothing_to_report(answers):
    result = check(answers)
    assert result.passed
    assert result.reason is None
    assert (result.flips, result.agreement, result.rows) == (0, 1.0, len(TEXTS))
    assert result.max_abs_error < 1e-5
    assert result.flip_bound == pytest.approx(1 - 0.05 ** (1 / len(TEXTS)))
    assert sum(rows for _, rows in result.error_counts) == len(TEXTS)


def test_nan_in_every_row_but_the_first_fails_with_the_count(answers):
    def spoil(logits, feed):
        logits[1:] = np.nan
        return logits

    result = check(answers, spoil)
    assert not result.passed
    assert result.reason == "batch 4, length 16: NaN in 3 of 4 rows"
    assert all(case.passed for case in result.cases if case.name.startswith("batch 1,"))


def test_infinity_fails(answers):
    result = check(answers, lambda logits, feed: logits * np.where(feed["input_ids"].shape[1] > 90, np.inf, 1.0))
    assert not result.passed
    assert "infinity in 1 of 1 rows" in result.reason
    assert result.max_abs_error == math.inf


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda logits, feed: np.full_like(logits, 50.0), "error"),
        (lambda logits, feed: np.zeros_like(logits), "zero"),
        (lambda logits, feed: logits[:, :2], "shape"),
        (lambda logits, feed: logits[:1], "shape"),
        (raising, "out of memory"),
    ],
    ids=["far off", "zero", "classes lost", "rows lost", "raises"],
)
def test_an_unusable_engine_fails_with_the_reason(answers, change, word):
    result = check(answers, change, "int8")
    assert not result.passed
    assert word in result.reason


def test_the_same_answer_to_every_text_fails_whatever_the_tolerance(answers):
    constant = answers.logits.mean(axis=0)
    result = check(answers, lambda logits, feed: np.tile(constant, (len(logits), 1)), "int8", tolerance=1e9)
    assert not result.passed
    assert "repeat the row before" in result.reason


def test_an_engine_without_logits_fails_and_says_what_it_has(answers):
    result = check_parity(NamelessEngine(), "fp32", answers, model())
    assert not result.passed
    assert "output_0" in result.reason
    assert (result.agreement, result.flip_bound) == (0.0, 1.0)


def test_a_failed_result_survives_the_manifest(answers):
    for change in (raising, lambda logits, feed: logits * np.nan):
        result = check(answers, change)
        assert from_plain(ParityResult, to_plain(result)) == result


def test_tolerance_follows_the_precision(answers):
    spread = answers.logits.std()
    assert not check(answers, noise(0.01 * spread), "fp32").passed
    assert check(answers, noise(0.01 * spread), "bf16").passed
    assert not check(answers, noise(0.2 * spread), "bf16").passed


def test_an_own_tolerance_takes_the_place_of_the_precisions(answers):
    strict = check(answers, noise(0.01), "bf16", tolerance=0.001)
    assert not strict.passed
    assert strict.tolerance == 0.001
    assert "exceeds 0.001" in strict.reason


def test_a_systematic_error_fails_though_every_logit_is_within_the_tolerance(answers):
    shift = 0.4 * answers.logits.std()
    result = check(answers, lambda logits, feed: logits + shift, "int8")
    assert not result.passed
    assert result.max_abs_error < result.tolerance
    assert "mean error" in result.reason


def test_a_label_that_flips_in_company_outside_the_margin_fails(answers):
    """A dynamic quantisation takes one range for the whole batch, so a row's label can depend on its neighbours."""

    def flip_one_of_sixteen(logits, feed):
        if len(logits) != 16:
            return logits
        order = np.sort(logits, axis=1)
        # Half of the lead off the first and onto the second: a small error for a logit, another label for the user.
        lead = order[:, -1:] - order[:, -2:-1]
        victim = np.flatnonzero((lead > 1.5) & (lead < 4.0))[0]
        top = logits == order[:, -1:]
        second = logits == order[:, -2:-1]
        moved = logits + (second * 1.0 - top) * (lead / 2 + 0.01)
        logits[victim] = moved[victim]
        return logits

    result = check(answers, flip_one_of_sixteen, "int8")
    assert result.company > 0.1
    assert not result.passed
    assert result.reason.startswith("batch 16, real texts: 1 of 16 labels differ where the checkpoint was sure")
    assert result.max_abs_error < result.tolerance, "the flip alone fails it"
    assert result.flips == 0, "the real texts are as they were"
    assert result.flips_outside_margin == 1


def test_company_is_measured_where_a_row_depends_on_its_neighbours(answers):
    result = check(answers, lambda logits, feed: logits + 0.0005 * (len(logits) - 1), "bf16")
    assert result.passed
    assert result.company == pytest.approx(0.0005 * 31, rel=0.1)
    assert check(answers).company < 1e-5


def test_flips_are_listed_with_the_checkpoints_lead(answers):
    lead = np.sort(answers.logits, axis=1)
    lead = lead[:, -1] - lead[:, -2]
    nearest = float(lead.min())

    def swap_near_ties(logits, feed):
        order = np.argsort(logits, axis=1)
        rows = np.arange(len(logits))
        near = logits[rows, order[:, -1]] - logits[rows, order[:, -2]] <= nearest + 1e-4
        changed = logits.copy()
        changed[rows[near], order[near, -2]] += 2 * nearest + 0.01
        return changed

    result = check(answers, swap_near_ties, "int8")
    assert result.flips >= 1
    assert result.flips == len(result.flipped)
    flip = result.flipped[0]
    assert flip.margin == pytest.approx(nearest, abs=2e-4)
    assert flip.reference != flip.engine
    assert result.agreement == 1 - result.flips / result.rows


def test_flips_of_many_labels_are_judged_against_zero(tmp_path):
    tokens, spec = encoder(tmp_path), model(Task.MULTI_LABEL)
    given = reference_answers(LinearEngine(), parity_grid(tokens, TEXTS, None, spec), tokens.encode(TEXTS), spec)
    surest = float(np.abs(given.logits).max())
    moved = LinearEngine(change=lambda logits, feed: np.where(np.abs(logits) > surest - 1e-3, -logits, logits))
    result = check_parity(moved, "int8", given, spec, tolerance=2.1 * surest)
    assert result.flips >= 1
    assert result.flipped[0].margin == pytest.approx(2 * surest, rel=1e-3)
    assert not result.passed


def test_regression_has_no_flips(tmp_path):
    tokens, spec = encoder(tmp_path), model(Task.REGRESSION, 1)
    grid = parity_grid(tokens, TEXTS, None, spec)
    given = reference_answers(LinearEngine(classes=1), grid, tokens.encode(TEXTS), spec)
    result = check_parity(LinearEngine(classes=1), "fp32", given, spec)
    assert result.passed
    assert result.flips == 0
    off = LinearEngine(classes=1, change=lambda logits, feed: 0.5 * logits)
    assert not check_parity(off, "int8", given, spec).passed


def test_a_reference_that_depends_on_padding_does_not_widen_the_tolerance_without_end(tmp_path):
    tokens = encoder(tmp_path)
    careless = LinearEngine(change=lambda logits, feed: logits + 3.0 * (feed["attention_mask"] == 0).any())
    given = reference_answers(careless, parity_grid(tokens, TEXTS, None, model()), tokens.encode(TEXTS), model())
    assert given.noise_floor == pytest.approx(3.0, abs=1e-4)
    result = check_parity(LinearEngine(), "fp32", given, model())
    assert result.passed, "rows alone are right"
    assert result.tolerance <= 0.011 * given.logits.std()
    assert not check_parity(careless, "fp32", given, model()).passed


def test_a_reference_that_answers_nan_stops_the_export(tmp_path):
    tokens = encoder(tmp_path)
    broken = LinearEngine(change=lambda logits, feed: logits * np.nan)
    with pytest.raises(EngineFailed, match="NaN"):
        reference_answers(broken, parity_grid(tokens, TEXTS, None, model()), tokens.encode(TEXTS), model())


def test_pairs_that_a_model_of_single_texts_cannot_read_are_dropped_by_name(tmp_path):
    def one_segment(logits, feed):
        if feed["token_type_ids"].any():
            raise EngineFailed("index out of range")
        return logits

    tokens = encoder(tmp_path)
    grid = parity_grid(tokens, TEXTS, None, model())
    given = reference_answers(LinearEngine(change=one_segment), grid, tokens.encode(TEXTS), model())
    assert given.dropped == ("batch 4, pairs, padded",)
    assert len(given.grid) == len(grid) - 1


def test_real_rows_are_asked_in_planned_batches_and_answered_in_order(answers):
    engine = LinearEngine()
    given = engine_answers(engine, answers, model())
    np.testing.assert_allclose(given.logits, answers.logits, atol=1e-5)
    assert max(rows for rows, _ in engine.calls) > 8


@pytest.mark.parametrize(
    ("hits", "trials", "upper"),
    # From scipy.stats.beta.ppf(0.95, hits + 1, trials - hits).
    [(0, 3080, 0.000972175), (20, 3080, 0.009423), (1, 10, 0.394163), (10, 10, 1.0), (0, 0, 1.0)],
)
def test_the_share_bound_is_clopper_pearsons(hits, trials, upper):
    assert share_upper(hits, trials) == pytest.approx(upper, rel=2e-4)


def test_lower_and_upper_bounds_mirror_each_other():
    assert share_lower(3, 40) == pytest.approx(1 - share_upper(37, 40))
    assert share_lower(0, 40) == pytest.approx(0.0, abs=1e-12)
    assert share_lower(3, 40) < 3 / 40 < share_upper(3, 40)


@needs_shared
@pytest.mark.shared
def test_the_real_checkpoint_agrees_with_itself_and_not_with_its_rounded_copy(tmp_path):
    import torch

    from nlpdeploy.export.checkpoint import read_checkpoint
    from nlpdeploy.export.reference import TorchReference
    from nlpdeploy.runtime.text import TextEncoder

    checkpoint = read_checkpoint(SHARED / "checkpoints/zh-reviews-roberta")
    path = tmp_path / "tokenizer.json"
    path.write_text(checkpoint.tokenizer_json, encoding="utf-8")
    tokens = TextEncoder(path, checkpoint.model.max_length)
    with (SHARED / "data/zh_reviews/test.csv").open(encoding="utf-8") as file:
        texts = [line["text"] for line in csv.DictReader(file)][:24]
    reference = TorchReference(checkpoint, threads=1)
    grid = parity_grid(tokens, texts, None, checkpoint.model)
    assert max(len(row) for case in grid for row in case.rows) == 512
    given = reference_answers(reference, grid, tokens.encode(texts), checkpoint.model)
    assert given.noise_floor < 1e-4
    assert check_parity(reference, "fp32", given, checkpoint.model).passed
    with torch.no_grad():
        for weight in reference._model.parameters():
            weight.copy_(weight.to(torch.bfloat16).float())
    rounded = check_parity(reference, "fp32", given, checkpoint.model)
    assert not rounded.passed
    assert check_parity(reference, "bf16", given, checkpoint.model).passed
