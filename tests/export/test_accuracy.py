"""Accuracy beside the reference's, for each task."""

from __future__ import annotations

import numpy as np
import pytest

from nlpdeploy.bundle.errors import InvalidInput
from nlpdeploy.bundle.specs import Task
from nlpdeploy.export.accuracy import drop_upper, measure_accuracy
from support.linear_engines import model


def logits_for(indices, classes=3):
    return np.eye(classes, dtype=np.float32)[np.array(indices, dtype=np.int64)] * 4


def test_accuracy_f1_and_the_paired_drop():
    labels = np.array([0, 0, 1, 1, 2, 2, 0, 1])
    reference = logits_for([0, 0, 1, 1, 2, 2, 1, 1])
    engine = logits_for([0, 1, 1, 1, 2, 2, 0, 0])
    found = measure_accuracy(engine, labels, model(), reference)
    assert (found.rows, found.accuracy, found.measure) == (8, 6 / 8, "accuracy")
    # b = rows 1 and 7, c = row 6.
    assert found.drop == pytest.approx(1 / 8)
    assert found.drop <= found.drop_high <= 1.0
    # By hand: classes a: TP 2 FP 1 FN 1, b: TP 2 FP 1 FN 1, c: TP 2.
    assert found.macro_f1 == pytest.approx((4 / 6 + 4 / 6 + 1) / 3)


def test_classes_that_never_occur_do_not_lower_f1():
    found = measure_accuracy(logits_for([0, 1], 8), np.array([0, 1]), model(classes=8), logits_for([0, 1], 8))
    assert found.macro_f1 == 1.0


def test_the_reference_beside_itself_drops_nothing():
    labels = np.zeros(3080, dtype=np.int64)
    logits = logits_for(np.arange(3080) % 3)
    found = measure_accuracy(logits, labels, model(), logits)
    assert found.drop == 0.0
    assert found.drop_high == pytest.approx(1 - 0.025 ** (1 / 3080))


def test_an_engine_that_gains_has_a_negative_drop():
    labels = np.zeros(40, dtype=np.int64)
    found = measure_accuracy(logits_for([0] * 40), labels, model(), logits_for([1] * 30 + [0] * 10))
    assert found.drop == -0.75
    assert -0.75 < found.drop_high < 0.0


@pytest.mark.parametrize(("lost_share", "won_share"), [(0.02, 0.02), (0.01, 0.0), (0.001, 0.003), (0.1, 0.02)])
def test_the_bound_covers_the_true_drop_at_least_95_times_in_100(lost_share, won_share):
    rng = np.random.default_rng(11)
    rows, runs = 500, 400
    draws = rng.multinomial(rows, [lost_share, won_share, 1 - lost_share - won_share], size=runs)
    covered = sum(drop_upper(int(lost), int(won), rows) >= lost_share - won_share for lost, won, _ in draws)
    assert covered >= 0.95 * runs


def test_many_labels_count_as_right_only_together():
    labels = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], dtype=bool)
    signs = np.where(labels, 2.0, -2.0).astype(np.float32)
    engine = signs.copy()
    engine[0, 1] = 0.1  # one label too many
    found = measure_accuracy(engine, labels, model(Task.MULTI_LABEL), signs)
    assert (found.accuracy, found.measure) == (0.75, "exact match")
    assert found.drop == 0.25
    assert found.macro_f1 == pytest.approx((1 + 4 / 5 + 1) / 3)


def test_regression_is_the_share_of_variance_explained():
    labels = np.array([1.0, 2.0, 3.0, 4.0])
    reference = labels[:, None].astype(np.float32)
    engine = reference + np.array([[0.5], [-0.5], [0.5], [-0.5]], dtype=np.float32)
    found = measure_accuracy(engine, labels, model(Task.REGRESSION, 1), reference)
    assert found.accuracy == pytest.approx(1 - 0.25 / 1.25)
    assert found.macro_f1 is None
    assert found.measure == "R2"
    assert found.drop == pytest.approx(0.2)
    assert found.drop_high == pytest.approx(0.2), "the error is the same in every row"


def test_regression_with_labels_all_alike_is_right_or_wrong():
    labels = np.array([2.0, 2.0])
    right, wrong = np.full((2, 1), 2.0, np.float32), np.full((2, 1), 2.5, np.float32)
    spec = model(Task.REGRESSION, 1)
    assert measure_accuracy(right, labels, spec, right).accuracy == 1.0
    assert measure_accuracy(wrong, labels, spec, right).drop == 1.0


def test_labels_that_do_not_match_the_rows_are_refused():
    with pytest.raises(InvalidInput, match="found 2"):
        measure_accuracy(logits_for([0, 1, 2]), np.array([0, 1]), model(), logits_for([0, 1, 2]))
    with pytest.raises(InvalidInput):
        measure_accuracy(logits_for([]), np.array([]), model(), logits_for([]))
