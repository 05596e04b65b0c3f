"""Labels, task and output function are those of the weights and the configuration."""

import numpy as np
import pytest
import transformers

from nlpdeploy.bundle.errors import InvalidInput, Unsupported
from nlpdeploy.bundle.specs import Activation, Task
from nlpdeploy.export.checkpoint import read_checkpoint
from nlpdeploy.runtime.tasks import activate
from support.checkpoints import (
    change_json,
    const_head,
    logits_of,
)


def scores_of(checkpoint):
    return activate(np.array([logits_of(checkpoint)], dtype=np.float32), checkpoint.model.activation)[0].tolist()


class TestLabels:
    def test_too_few_labels_give_both_numbers_and_the_option(self, tmp_path):
        folder = const_head(tmp_path, [0.0] * 14)
        change_json(folder / "config.json", id2label={"0": "LABEL_0", "1": "LABEL_1"})
        with pytest.raises(InvalidInput) as refused:
            read_checkpoint(folder)
        line = str(refused.value)
        assert "2 labels for a head with 14 rows" in line
        assert "--labels FILE" in line
        assert "\n" not in line

    def test_labels_given_in_a_file_mend_it(self, tmp_path):
        folder = const_head(tmp_path / "model", [0.0, 1.0])
        change_json(folder / "config.json", id2label={"0": "a", "1": "b", "2": "c"})
        names = tmp_path / "labels.txt"
        names.write_text("负面\n正面\n", encoding="utf-8")
        assert read_checkpoint(folder, labels=names).model.labels == ("负面", "正面")
        names.write_text("one\n", encoding="utf-8")
        with pytest.raises(InvalidInput, match="1 labels for a head with 2 rows"):
            read_checkpoint(folder, labels=names)

    def test_absent_labels_are_numbered_with_a_note(self, tmp_path):
        folder = const_head(tmp_path, [0.0] * 14)
        change_json(folder / "config.json", id2label=None, label2id=None)
        checkpoint = read_checkpoint(folder)
        assert checkpoint.model.labels == tuple(f"LABEL_{i}" for i in range(14))
        assert any("names no labels" in note for note in checkpoint.notes)
        assert logits_of(checkpoint) == [0.0] * 14

    def test_keys_count_as_numbers_whatever_their_order(self, tmp_path):
        folder = const_head(tmp_path, [0.0] * 11)
        by_index = {str(i): f"name {i}" for i in sorted(range(11), key=str)}
        change_json(folder / "config.json", id2label=by_index)
        assert read_checkpoint(folder).model.labels == tuple(f"name {i}" for i in range(11))

    def test_a_gap_in_the_indices_is_refused(self, tmp_path):
        folder = const_head(tmp_path, [0.0, 1.0])
        change_json(folder / "config.json", id2label={"1": "a", "2": "b"})
        with pytest.raises(InvalidInput, match="without gaps"):
            read_checkpoint(folder)


class TestTaskAndOutputFunction:
    @pytest.mark.parametrize(
        ("problem", "bias", "task", "activation"),
        [
            ("regression", [3.25], Task.REGRESSION, Activation.NONE),
            (None, [3.25], Task.REGRESSION, Activation.SIGMOID),
            (None, [0.0, 1.0], Task.CLASSIFICATION, Activation.SOFTMAX),
            ("single_label_classification", [0.0, 1.0], Task.CLASSIFICATION, Activation.SOFTMAX),
            ("multi_label_classification", [0.0, 1.0], Task.MULTI_LABEL, Activation.SIGMOID),
            ("multi_label_classification", [0.0], Task.MULTI_LABEL, Activation.SIGMOID),
        ],
    )
    def test_they_follow_the_configuration_as_in_transformers(self, problem, bias, task, activation, tmp_path):
        folder = const_head(tmp_path, bias)
        change_json(folder / "config.json", problem_type=problem)
        checkpoint = read_checkpoint(folder)
        assert (checkpoint.model.task, checkpoint.model.activation) == (task, activation)
        ours = scores_of(checkpoint)
        theirs = transformers.pipeline("text-classification", model=str(folder), top_k=None)(["hello"])[0]
        assert sorted(ours) == pytest.approx(sorted(answer["score"] for answer in theirs), abs=1e-6)

    def test_a_regression_answers_the_bare_logit(self, tmp_path):
        checkpoint = read_checkpoint(const_head(tmp_path, [3.25], problem_type="regression"))
        assert logits_of(checkpoint) == scores_of(checkpoint) == [3.25]

    def test_one_label_of_a_single_label_head_is_a_score(self, tmp_path):
        folder = const_head(tmp_path, [3.25])
        change_json(folder / "config.json", problem_type="single_label_classification")
        checkpoint = read_checkpoint(folder)
        assert checkpoint.model.task is Task.REGRESSION
        assert scores_of(checkpoint) == pytest.approx([0.96267], abs=1e-5)

    def test_the_default_for_one_label_is_recorded_and_noted(self, tmp_path):
        checkpoint = read_checkpoint(const_head(tmp_path, [3.25]))
        assert checkpoint.model.activation_source == "default for one label, as in Transformers"
        assert any("sigmoid" in note for note in checkpoint.notes)

    def test_the_caller_overrides(self, tmp_path):
        folder = const_head(tmp_path, [3.25])
        checkpoint = read_checkpoint(folder, activation="none")
        assert checkpoint.model.activation is Activation.NONE
        assert checkpoint.model.activation_source == "--activation"
        assert read_checkpoint(folder, task="regression").model.activation is Activation.NONE

    @pytest.mark.parametrize(
        ("bias", "options", "kind"),
        [
            ([3.25], {"activation": "softmax"}, InvalidInput),
            ([3.25], {"task": "classification"}, InvalidInput),
            ([1.0, 2.0], {"task": "regression"}, Unsupported),
            ([1.0, 2.0], {"task": "translation"}, InvalidInput),
            ([1.0, 2.0], {"activation": "tanh"}, InvalidInput),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, bias, options, kind, tmp_path):
        folder = const_head(tmp_path, bias)
        with pytest.raises(kind):
            read_checkpoint(folder, **options)

    def test_a_task_that_can_not_be_told_is_asked_for(self, folder):
        change_json(folder / "config.json", architectures=None)
        with pytest.raises(InvalidInput, match="--task"):
            read_checkpoint(folder)
        assert read_checkpoint(folder, task="classification").model.task is Task.CLASSIFICATION

    @pytest.mark.parametrize(
        "changes",
        [
            {"architectures": ["GPT2ForSequenceClassification"], "model_type": "gpt2"},
            {"architectures": ["BertForTokenClassification"]},
            {"architectures": ["MadeUpModel"], "model_type": None},
        ],
    )
    def test_another_architecture_or_head_is_named_beside_what_is_supported(self, folder, changes):
        change_json(folder / "config.json", **changes)
        with pytest.raises(Unsupported) as refused:
            read_checkpoint(folder)
        assert changes["architectures"][0] in str(refused.value)
        assert "bert" in str(refused.value).lower()
