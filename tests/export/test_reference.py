"""The fp32 reference answers as the checkpoint does, through the contract of every engine."""

import numpy as np
import pytest

from nlpdeploy.bundle.errors import EngineFailed, InvalidInput
from nlpdeploy.bundle.specs import Layout, TensorSpec
from nlpdeploy.export.checkpoint import read_checkpoint
from nlpdeploy.export.corpus import read_corpus
from nlpdeploy.export.reference import TorchReference
from nlpdeploy.runtime.text import TextEncoder
from support.checkpoints import MODEL_TYPES, random_classifier, sample_sentences
from support.shared import SHARED, needs_shared


def encoder_of(checkpoint, folder):
    file = folder / "tokenizer.json"
    file.write_text(checkpoint.tokenizer_json, encoding="utf-8")
    return TextEncoder(file, checkpoint.model.max_length)


def feed_of(rows, checkpoint):
    """Rows padded on the right to the longest."""
    longest = max(len(row) for row in rows)
    feed = {
        "input_ids": np.full((len(rows), longest), checkpoint.model.pad_id, dtype=np.int64),
        "attention_mask": np.zeros((len(rows), longest), dtype=np.int64),
        "token_type_ids": np.zeros((len(rows), longest), dtype=np.int64),
    }
    for i, row in enumerate(rows):
        feed["input_ids"][i, : len(row)] = row.input_ids
        feed["attention_mask"][i, : len(row)] = 1
        feed["token_type_ids"][i, : len(row)] = row.token_type_ids
    return {name: feed[name] for name in checkpoint.inputs}


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_row_answers_alike_alone_and_in_a_padded_batch(model_type, tmp_path):
    checkpoint = read_checkpoint(random_classifier(tmp_path / "model", model_type=model_type))
    rows = encoder_of(checkpoint, tmp_path).encode(sample_sentences()[::10])
    reference = TorchReference(checkpoint, threads=1)
    together = reference.run(feed_of(rows, checkpoint))["logits"]
    alone = np.concatenate([reference.run(feed_of([row], checkpoint))["logits"] for row in rows])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert len(set(alone.argmax(axis=1))) > 1
    assert together.dtype == np.float32


def test_it_keeps_the_contract_of_an_engine(tmp_path):
    checkpoint = read_checkpoint(random_classifier(tmp_path, model_type="roberta"))
    reference = TorchReference(checkpoint, threads=1)
    assert (reference.id, reference.layout) == ("torch-fp32", Layout.PADDED)
    assert reference.inputs == (
        TensorSpec("input_ids", "INT64", (-1, -1)),
        TensorSpec("attention_mask", "INT64", (-1, -1)),
    )
    assert reference.outputs == (TensorSpec("logits", "FP32", (-1, 4)),)
    feed = {"input_ids": np.array([[0, 7, 2]]), "attention_mask": np.ones((1, 3), dtype=np.int64)}
    assert reference.run(feed)["logits"].shape == (1, 4)
    with pytest.raises(InvalidInput, match="token_type_ids"):
        reference.run(feed | {"token_type_ids": feed["input_ids"] * 0})
    with pytest.raises(EngineFailed):
        reference.run(feed | {"input_ids": np.array([[0, 1_000_000, 2]])})
    reference.close()
    reference.close()
    with pytest.raises(EngineFailed, match="closed"):
        reference.run(feed)


@needs_shared
@pytest.mark.parametrize(
    ("name", "data", "label_column", "accuracy"),
    [
        ("banking77-minilm", "banking77/test.csv", "category", 0.919),
        ("zh-reviews-roberta", "zh_reviews/test.csv", "label", 0.820),
    ],
)
def test_a_real_checkpoint_reaches_its_accuracy(name, data, label_column, accuracy, tmp_path):
    checkpoint = read_checkpoint(SHARED / "checkpoints" / name)
    corpus = read_corpus(SHARED / "data" / data, checkpoint.model, label_column=label_column, limit=240)
    rows = encoder_of(checkpoint, tmp_path).encode(corpus.texts)
    reference = TorchReference(checkpoint, threads=1)
    by_length = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    right = 0
    for start in range(0, len(rows), 16):
        batch = by_length[start : start + 16]
        logits = reference.run(feed_of([rows[i] for i in batch], checkpoint))["logits"]
        right += int((logits.argmax(axis=1) == corpus.labels[batch]).sum())
    # Two standard errors of a share measured on so many rows.
    assert abs(right / len(rows) - accuracy) < 2 * (accuracy * (1 - accuracy) / len(rows)) ** 0.5
