import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nlpdeploy.bundle.errors import EngineFailed
from nlpdeploy.bundle.specs import Activation, ModelSpec, Task
from nlpdeploy.runtime.tasks import activate, checked_logits, decode


def spec(task, activation, labels):
    return ModelSpec(task, activation, "test", labels, pair=False, max_length=16, pad_id=0)


logit_arrays = hnp.arrays(np.float32, (3, 4), elements=st.floats(-1e4, 1e4, width=32))


@given(logit_arrays)
def test_softmax_rows_are_probabilities_for_any_finite_logits(logits):
    scores = activate(logits, Activation.SOFTMAX)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, atol=1e-5)


@given(logit_arrays)
def test_sigmoid_stays_between_zero_and_one_without_overflow(logits):
    with np.errstate(over="raise"):
        scores = activate(logits, Activation.SIGMOID)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_classification_answers_the_top_label_with_its_score():
    out = decode(np.array([[0.0, 2.0]], np.float32), spec(Task.CLASSIFICATION, Activation.SOFTMAX, ("正面", "负面")))
    assert out["label"].tolist() == ["负面"]
    assert out["score"][0] == pytest.approx(0.880797)
    assert out["scores"].shape == (1, 2)


def test_multi_label_scores_are_independent():
    out = decode(np.array([[0.0, 0.0, 4.0]], np.float32), spec(Task.MULTI_LABEL, Activation.SIGMOID, ("a", "b", "c")))
    assert out["label"].tolist() == ["c"]
    assert out["scores"][0].tolist() == pytest.approx([0.5, 0.5, 0.982014])


def test_regression_is_not_squashed():
    out = decode(np.array([[3.25]], np.float32), spec(Task.REGRESSION, Activation.NONE, ("LABEL_0",)))
    assert set(out) == {"score", "logits"}
    assert out["score"].tolist() == [3.25]


def test_one_label_with_sigmoid_answers_as_transformers_does():
    out = decode(np.array([[3.25]], np.float32), spec(Task.REGRESSION, Activation.SIGMOID, ("LABEL_0",)))
    assert out["score"][0] == pytest.approx(0.962673)


def test_nan_rows_are_counted_and_refused():
    logits = np.zeros((4, 2), np.float32)
    logits[1:] = np.nan
    with pytest.raises(EngineFailed, match="NaN or infinity in 3 of 4 rows"):
        checked_logits({"logits": logits}, 4, 2)


@pytest.mark.parametrize("outputs", [{}, {"logits": np.zeros((2, 3), np.float32)}])
def test_missing_or_misshapen_logits_are_refused(outputs):
    with pytest.raises(EngineFailed, match="logits"):
        checked_logits(outputs, 2, 2)
