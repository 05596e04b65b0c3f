"""The saved tokenizer gives the ids of Transformers' own, and no more than the model has positions for."""

import json

import pytest
import torch
import transformers

from nlpdeploy.bundle.errors import InvalidInput
from nlpdeploy.export.checkpoint import load_torch, read_checkpoint
from support.checkpoints import (
    MODEL_TYPES,
    build,
    change_json,
    const_head,
    logits_of,
    random_classifier,
    sample_sentences,
    sample_tokenizer,
    save,
    saved_tokenizer,
    tiny_tokenizer,
)


class TestUsableLength:
    SENTINEL = 1000000000000000019884624838656

    def test_roberta_of_514_positions_holds_512_tokens(self, tmp_path):
        tokenizer = tiny_tokenizer("roberta", model_max_length=self.SENTINEL)
        folder = const_head(
            tmp_path, [0.0, 1.0], model_type="roberta", tokenizer=tokenizer, max_position_embeddings=514, pad_token_id=1
        )
        checkpoint = read_checkpoint(folder)
        assert checkpoint.model.max_length == 512
        assert checkpoint.model.pad_id == 1
        encoding = saved_tokenizer(checkpoint).encode(" ".join(["hello"] * 600))
        assert len(encoding.ids) == 512
        assert logits_of(checkpoint, encoding.ids) == [0.0, 1.0]

    def test_bert_of_512_positions_and_no_stated_limit_holds_512_tokens(self, tmp_path):
        tokenizer = tiny_tokenizer("bert", model_max_length=self.SENTINEL)
        checkpoint = read_checkpoint(const_head(tmp_path, [0.0, 1.0], tokenizer=tokenizer, max_position_embeddings=512))
        assert checkpoint.model.max_length == 512
        assert any("states no limit" in note for note in checkpoint.notes)

    def test_the_tokenizers_own_smaller_limit_holds(self, tmp_path):
        tokenizer = tiny_tokenizer("bert", model_max_length=16)
        assert read_checkpoint(const_head(tmp_path, [0.0, 1.0], tokenizer=tokenizer)).model.max_length == 16

    @pytest.mark.parametrize(
        "model_type", [kind for kind in MODEL_TYPES if kind not in ("deberta-v2", "modernbert")]
    )  # counts distances
    def test_a_row_of_the_usable_length_runs_and_one_more_token_has_no_position(self, model_type, tmp_path):
        checkpoint = read_checkpoint(const_head(tmp_path, [0.0, 1.0], model_type=model_type))
        model, longest = load_torch(checkpoint), checkpoint.model.max_length
        assert model(input_ids=torch.full((1, longest), 5)).logits.tolist() == [[0.0, 1.0]]
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, longest + 1), 5))


class TestTokenizers:
    @pytest.mark.parametrize("model_type", MODEL_TYPES)
    def test_the_saved_form_gives_transformers_ids_for_texts_and_pairs(self, model_type, tmp_path):
        folder = random_classifier(tmp_path, model_type=model_type)
        checkpoint = read_checkpoint(folder)
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        ours, longest = saved_tokenizer(checkpoint), checkpoint.model.max_length
        texts = sample_sentences()
        for first, second in zip(texts, texts[5:] + texts[:5], strict=True):
            assert ours.encode(first).ids == theirs(first, truncation=True, max_length=longest)["input_ids"]
            both = theirs(first, second, truncation="longest_first", max_length=longest)
            assert ours.encode(first, second).ids == both["input_ids"]

    @pytest.mark.parametrize("lower", [True, False])
    def test_a_vocabulary_alone_is_converted_with_its_lower_casing(self, tmp_path, lower):
        tokenizer = sample_tokenizer("bert", do_lower_case=lower)
        folder = const_head(tmp_path, [0.0, 1.0], tokenizer=tokenizer)
        (folder / "tokenizer.json").unlink()
        vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        options = {"tokenizer_class": "BertTokenizer", "do_lower_case": lower}
        (folder / "tokenizer_config.json").write_text(json.dumps(options))
        tokens = saved_tokenizer(read_checkpoint(folder)).encode("MY CARD").tokens
        assert (tokens == ["[CLS]", "my", "card", "[SEP]"]) is lower

    def test_merges_are_converted(self, tmp_path):
        tokenizer = sample_tokenizer("roberta")
        folder = const_head(tmp_path, [0.0, 1.0], model_type="roberta", tokenizer=tokenizer)
        model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
        merges = "\n".join(["#version: 0.2", *(" ".join(merge) for merge in model["merges"])])
        (folder / "merges.txt").write_text(merges + "\n", encoding="utf-8")
        ours = saved_tokenizer(read_checkpoint(folder))
        for text in sample_sentences()[:40]:
            assert ours.encode(text).ids == tokenizer(text)["input_ids"]

    def test_a_sentencepiece_model_is_converted(self, tmp_path):
        import sentencepiece

        folder = const_head(tmp_path / "model", [0.0, 1.0], model_type="xlm-roberta", vocab_size=900)
        (folder / "tokenizer.json").unlink()
        lines = tmp_path / "lines.txt"
        lines.write_text("\n".join(sample_sentences()), encoding="utf-8")
        stem = folder / "sentencepiece.bpe"
        sentencepiece.SentencePieceTrainer.train(
            input=str(lines), model_prefix=str(stem), vocab_size=700, hard_vocab_limit=False, minloglevel=2
        )
        pieces = sentencepiece.SentencePieceProcessor(f"{stem}.model")
        ours = saved_tokenizer(read_checkpoint(folder))
        for text in sample_sentences()[:40]:
            assert ours.encode(text).tokens[1:-1] == pieces.encode(text, out_type=str)

        (folder / "sentencepiece.bpe.model").write_bytes(b"\x00junk")
        with pytest.raises(InvalidInput, match=r"\.model file is whole"):
            read_checkpoint(folder)

    def test_segments_are_zero_where_the_tokenizer_makes_none(self, tmp_path):
        tokenizer = tiny_tokenizer("bert", model_input_names=["input_ids", "attention_mask"])
        folder = random_classifier(tmp_path, tokenizer=tokenizer, type_vocab_size=2)
        checkpoint = read_checkpoint(folder, pair=True)
        assert "token_type_ids" in checkpoint.inputs
        encoding = saved_tokenizer(checkpoint).encode("hello", "world")
        assert encoding.type_ids == [0] * 5
        theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        want = theirs(**transformers.AutoTokenizer.from_pretrained(folder)("hello", "world", return_tensors="pt"))
        fed = {"input_ids": torch.tensor([encoding.ids]), "token_type_ids": torch.tensor([encoding.type_ids])}
        torch.testing.assert_close(load_torch(checkpoint)(**fed).logits, want.logits, atol=1e-5, rtol=0)

    def test_segments_are_kept_where_the_tokenizer_makes_them(self, folder):
        assert saved_tokenizer(read_checkpoint(folder)).encode("hello", "world").type_ids == [0, 0, 0, 1, 1]

    def test_one_kind_of_segment_is_not_fed(self, tmp_path):
        checkpoint = read_checkpoint(const_head(tmp_path, [0.0, 1.0], type_vocab_size=1))
        assert checkpoint.inputs == ("input_ids", "attention_mask")

    def test_ids_without_an_embedding_are_refused(self, tmp_path):
        tokenizer = tiny_tokenizer("bert")
        model = build("bert", tokenizer, classes=2, layers=1, hidden=32, seed=0, spread=0.02)
        tokenizer.add_tokens(["extra"])
        with pytest.raises(InvalidInput, match="ids up to 16"):
            read_checkpoint(save(model, tokenizer, tmp_path))

    def test_the_models_pad_id_wins_with_a_note(self, tmp_path):
        folder = const_head(tmp_path, [0.0, 1.0], model_type="roberta")
        change_json(folder / "tokenizer_config.json", pad_token="<mask>")
        checkpoint = read_checkpoint(folder)
        assert checkpoint.model.pad_id == 1
        assert any("pad id 1 of config.json" in note for note in checkpoint.notes)
