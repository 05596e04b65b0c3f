"""Small checkpoints of every architecture, written as Transformers writes them; no download.

``const_head``: one layer, 32 wide, random, but the last weight is 0: its logits are the bias for any text.
``random_classifier``: two layers with weights wide enough that real sentences get different answers.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import nlpdeploy.export
from nlpdeploy.export.architectures import ARCHITECTURES
from nlpdeploy.export.checkpoint import Checkpoint, load_torch

MODEL_TYPES = tuple(ARCHITECTURES)
WORDS = ("note", "book", "##book", "notebook", "hello", "world", "的", "##的", "人", "##人", "a")
BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SENTENCEPIECE_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
UNIGRAM = {
    "xlm-roberta": ("XLMRobertaTokenizer", SENTENCEPIECE_SPECIALS[:4], ("<mask>",)),
    "albert": ("AlbertTokenizer", ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"), ()),
    "deberta-v2": ("DebertaV2Tokenizer", ("[PAD]", "[CLS]", "[SEP]", "[UNK]"), ("[MASK]",)),
}
"""Tokenizers of the SentencePiece kind: the class, and the special tokens before and behind the pieces."""
DISENTANGLED = {
    "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False,
    "share_att_key": True, "norm_rel_ebd": "layer_norm",
}  # fmt: skip
"""DeBERTa-v3's settings."""
MODERN_SPECIALS = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
transformers.utils.logging.disable_progress_bar()
# Tests share their cores: threads that wait for each other at every layer cost more than they bring.
torch.set_num_threads(1)
SAMPLES = Path(nlpdeploy.export.__path__[0]) / "sample_texts.tsv"


def sample_sentences() -> list[str]:
    """The sentences that ship with the package."""
    with SAMPLES.open(encoding="utf-8", newline="") as stream:
        return [row["text"] for row in csv.DictReader(stream, delimiter="\t")]


def tiny_tokenizer(model_type: str, **options: Any) -> Any:
    """The tiny vocabulary in the tokenizer class of the architecture."""
    if model_type in ("roberta", "modernbert"):
        return _byte_level(["hello world note book notebook a 的 人"] * 3, 300, **options)
    if model_type in UNIGRAM:
        pieces = [(f"▁{word}", -2.0) for word in WORDS if not word.startswith("##")]
        return _unigram(model_type, [*pieces, ("▁", -3.0)], **options)
    return _wordpiece(model_type, WORDS, **options)


def sample_tokenizer(model_type: str, **options: Any) -> Any:
    """A vocabulary of the built-in sentences in the tokenizer class of the architecture; the same in every run.

    Most of the library's trainers break ties by chance, so words and letters are simply counted.
    """
    sentences = sample_sentences()
    if model_type in ("roberta", "modernbert"):
        return _byte_level(sentences, 600, **options)
    if model_type in UNIGRAM:
        letters, words = _letters_and_words(sentences)
        pieces = [("▁", -3.0), *((f"▁{word}", -4.0) for word in words if len(word) > 1)]
        return _unigram(model_type, [*pieces, *((letter, -6.0) for letter in letters)], **options)
    letters, words = _letters_and_words([sentence.lower() for sentence in sentences])
    return _wordpiece(model_type, (*words, *letters, *(f"##{letter}" for letter in letters)), **options)


def const_head(
    folder: Path, bias: Sequence[float], *, model_type: str = "bert", tokenizer: Any = None, **settings: Any
) -> Path:
    """A model whose logits are ``bias`` for any text; ``settings`` go into the configuration."""
    tokenizer = tokenizer or tiny_tokenizer(model_type)
    model = build(model_type, tokenizer, classes=len(bias), layers=1, hidden=32, seed=0, spread=0.02, **settings)
    head = head_of(model, model_type)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor(bias))
    return save(model, tokenizer, folder)


def random_classifier(
    folder: Path,
    *,
    model_type: str = "bert",
    labels: Sequence[str] = ("refund", "delivery", "account", "other"),
    seed: int = 0,
    tokenizer: Any = None,
    layers: int = 2,
    hidden: int = 64,
    spread: float = 0.25,
    **settings: Any,
) -> Path:
    """A model, of two layers if not told otherwise, that gives different sentences different labels."""
    tokenizer = tokenizer or sample_tokenizer(model_type)
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    size = {"layers": layers, "hidden": hidden, "seed": seed, "spread": spread}
    model = build(model_type, tokenizer, classes=len(labels), **size, **names, **settings)
    rows = tokenizer(sample_sentences(), padding=True, truncation=True, max_length=32, return_tensors="pt")
    inputs = {name: rows[name] for name in ARCHITECTURES[model_type].input_names(model.config) if name in rows}
    with torch.no_grad():
        # Centred, so that no class wins by its bias alone.
        head_of(model, model_type).bias.sub_(model(**inputs).logits.mean(0))
    return save(model, tokenizer, folder)


def base_classifier(folder: Path, tokenizer: Any, *, classes: int = 4) -> Path:
    """BERT-base in sizes (12 layers, 768 wide, 110 M parameters with BERT's vocabulary), untrained.

    Words and attention weigh more than at the start of a training, feed-forward less: answers differ between texts by
    more than what half precision does to them.
    """
    model = build(
        "bert", tokenizer, classes=classes, layers=12, hidden=768, seed=0, spread=0.02,
        num_attention_heads=12, intermediate_size=3072, max_position_embeddings=512,
    )  # fmt: skip
    rows = tokenizer(sample_sentences()[:16], padding=True, truncation=True, max_length=32, return_tensors="pt")
    with torch.no_grad():
        for name, values in model.named_parameters():
            if name.endswith("bias"):  # zeros would be one constant for all of them
                values.normal_(0, 0.02)
        model.bert.embeddings.word_embeddings.weight.mul_(4)
        for layer in model.bert.encoder.layer:
            layer.attention.output.dense.weight.mul_(3)
            layer.output.dense.weight.mul_(0.1)
        model.classifier.bias.sub_(model(**rows).logits.mean(0))
    return save(model, tokenizer, folder)


def head_of(model: Any, model_type: str) -> Any:
    """The last linear layer."""
    return model.get_submodule(ARCHITECTURES[model_type].head.removesuffix(".weight"))


def build(
    model_type: str,
    tokenizer: Any,
    *,
    classes: int,
    layers: int,
    hidden: int,
    seed: int,
    spread: float,
    **settings: Any,
) -> Any:
    """An untrained classifier whose weights are drawn with the standard deviation ``spread``."""
    names = ("n_layers", "dim", "n_heads", "hidden_dim") if model_type == "distilbert" else (
        "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size",
    )  # fmt: skip
    positions = 64 + (2 if ARCHITECTURES[model_type].position_offset != 0 else 0)
    plain = {
        **dict(zip(names, (layers, hidden, 2, 2 * hidden), strict=True)),
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "max_position_embeddings": positions,
        "initializer_range": spread,
        "num_labels": classes,
        **({"embedding_size": hidden} if model_type == "electra" else {}),
        **({"embedding_size": hidden // 2} if model_type == "albert" else {}),
        **({"local_attention": 8, **dict.fromkeys(MODERN_SPECIALS, 2)} if model_type == "modernbert" else {}),
        **(DISENTANGLED if model_type == "deberta-v2" else {}),
        **({"type_vocab_size": 1} if model_type in ("roberta", "xlm-roberta") else {}),
        **settings,
    }
    torch.manual_seed(seed)
    config = CONFIG_MAPPING[model_type].from_dict(plain)
    return transformers.AutoModelForSequenceClassification.from_config(config).eval()


def save(model: Any, tokenizer: Any, folder: Path) -> Path:
    """Write model and tokenizer as a fine-tuning script does; returns the folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def change_json(file: Path, **changes: Any) -> None:
    """Set keys of a JSON object on disk; None removes one."""
    plain = json.loads(file.read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in plain.items() if value is not None}
    file.write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")


def logits_of(checkpoint: Checkpoint, ids: Sequence[int] = (2, 8, 3)) -> list[float]:
    """The checkpoint's logits for one row of ids."""
    row: list[float] = load_torch(checkpoint)(input_ids=torch.tensor([ids])).logits[0].tolist()
    return row


def saved_tokenizer(checkpoint: Checkpoint) -> Any:
    """The tokenizer that a bundle of the checkpoint would hold."""
    return Tokenizer.from_str(checkpoint.tokenizer_json)


def _wordpiece(model_type: str, pieces: Sequence[str], **options: Any) -> Any:
    if model_type == "mpnet":
        specials = ("<s>", "<pad>", "</s>", "[UNK]", "<mask>")
        return transformers.MPNetTokenizer(vocab=_numbered((*specials, *pieces)), **options)
    return transformers.BertTokenizer(vocab=_numbered((*BERT_SPECIALS, *pieces)), **options)


def _unigram(model_type: str, pieces: Sequence[tuple[str, float]], **options: Any) -> Any:
    name, before, behind = UNIGRAM[model_type]
    vocabulary = [*((special, 0.0) for special in before), *pieces, *((special, 0.0) for special in behind)]
    return getattr(transformers, name)(vocab=vocabulary, **options)


def _numbered(pieces: Sequence[str]) -> dict[str, int]:
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}


def _byte_level(sentences: Sequence[str], size: int, **options: Any) -> Any:
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SENTENCEPIECE_SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(sentences, trainer)
    learned = json.loads(learner.to_str())["model"]
    merges = [tuple(merge) for merge in learned["merges"]]
    return transformers.RobertaTokenizer(vocab=learned["vocab"], merges=merges, **options)


def _letters_and_words(sentences: Sequence[str]) -> tuple[list[str], list[str]]:
    words = Counter(word for sentence in sentences for word in re.findall(r"\w+", sentence))
    letters = {letter for sentence in sentences for letter in sentence if not letter.isspace()}
    return sorted(letters), sorted(word for word, count in words.items() if count > 1)
