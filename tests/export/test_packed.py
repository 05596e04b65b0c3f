"""All texts in one row answer as each text alone does, for every architecture; what doesn't is refused."""

import numpy as np
import pytest
import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from nlpdeploy.bundle.errors import Unsupported
from nlpdeploy.export import packed
from nlpdeploy.runtime.text import Row

PAD = 1
SETTINGS = {
    "bert": {},
    "roberta": {"type_vocab_size": 1},
    "xlm-roberta": {"type_vocab_size": 1},
    "distilbert": {"n_layers": 2, "dim": 64, "n_heads": 2, "hidden_dim": 128},
    "electra": {"embedding_size": 32},
    "albert": {"embedding_size": 32},
    "mpnet": {},
    "modernbert": {"local_attention": 8, "layer_types": ["full_attention", "sliding_attention"]},
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["c2p", "p2c"],
        "position_biased_input": False,
    },
}
SPECIALS = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 2)


def classifier(model_type, **changes):
    """Two layers of random weights, wide enough that each text gets its own answer."""
    plain = {
        "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128,
        "vocab_size": 200, "pad_token_id": PAD, "max_position_embeddings": 66, "initializer_range": 0.25,
        "num_labels": 4, **SPECIALS, **SETTINGS[model_type], **changes,
    }  # fmt: skip
    torch.manual_seed(0)
    config = CONFIG_MAPPING[model_type].from_dict(plain)
    return transformers.AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()


def has_types(model):
    return getattr(model.config, "type_vocab_size", 0) > 1


def rows(model, lengths=(1, 40, 3, 64, 17, 2, 9, 28)):
    random = np.random.default_rng(1)
    types = random.integers(0, 2 if has_types(model) else 1, 64)
    return [Row(random.integers(5, 200, length), np.sort(types[:length])) for length in lengths]


def alone(model, texts):
    answers = []
    for row in texts:
        feed = {"input_ids": row.input_ids, "attention_mask": np.ones(len(row), dtype=np.int64)}
        if has_types(model):
            feed["token_type_ids"] = row.token_type_ids
        with torch.inference_mode():
            answers.append(model(**{name: torch.from_numpy(value[None]) for name, value in feed.items()}).logits)
    return torch.cat(answers).numpy()


@pytest.mark.parametrize("model_type", SETTINGS)
def test_texts_in_one_row_answer_as_alone(model_type):
    model = classifier(model_type)
    texts = rows(model)
    want = alone(model, texts)
    made = packed.pack(model, token_types=has_types(model))
    assert want.std(axis=0).min() > 0.05, "texts must get different answers, or a mixed-up one would not show"
    np.testing.assert_allclose(made.logits(texts, PAD), want, atol=1e-4)
    np.testing.assert_allclose(made.logits(texts[3:4], PAD), want[3:4], atol=1e-4)


def test_modernbert_that_averages_tokens_is_packed_by_the_mean_of_each_text():
    model = classifier("modernbert", classifier_pooling="mean")
    texts = rows(model)
    want = alone(model, texts)
    np.testing.assert_allclose(packed.pack(model, token_types=False).logits(texts, PAD), want, atol=1e-4)


@pytest.mark.parametrize("model_type", SETTINGS)
def test_a_mask_that_lets_texts_see_each_other_is_caught(model_type, monkeypatch):
    monkeypatch.setattr(packed, "_additive", lambda same, positions, config: torch.zeros(same.shape))
    if model_type == "deberta-v2":
        blind = lambda same, positions, config: torch.ones_like(same)  # noqa: E731
        monkeypatch.setattr(packed, "_boolean", blind)
        monkeypatch.setitem(packed._MASKS, model_type, blind)
    model = classifier(model_type)
    with pytest.raises(Unsupported, match="answer otherwise than each text alone; found a difference of"):
        packed.checked_pack(model, rows(model), PAD, token_types=has_types(model))


def test_what_was_checked_stands_in_the_note():
    model = classifier("bert")
    made = packed.checked_pack(model, rows(model), PAD, token_types=True)
    assert made.note.startswith("8 texts in one row differ from each alone by at most ")
    assert [spec.name for spec in made.inputs] == [
        "input_ids", "position_ids", "segment_ids", "token_type_ids", "first_tokens",
    ]  # fmt: skip


def test_positions_that_start_elsewhere_are_caught(monkeypatch):
    monkeypatch.setattr(packed, "_position_offset", lambda base: 0)
    model = classifier("roberta")
    with pytest.raises(Unsupported, match="answer otherwise"):
        packed.checked_pack(model, rows(model), PAD, token_types=False)


def test_a_convolution_over_neighbours_cannot_be_packed():
    model = classifier("deberta-v2", conv_kernel_size=3)
    with pytest.raises(Unsupported, match="a convolution over neighbouring tokens"):
        packed.checked_pack(model, rows(model), PAD, token_types=has_types(model))
