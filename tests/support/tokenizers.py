"""The tiny vocabulary: a lower-casing WordPiece tokenizer of sixteen words."""

from pathlib import Path

TINY_VOCABULARY = "[PAD] [UNK] [CLS] [SEP] [MASK] note book ##book notebook hello world 的 ##的 人 ##人 a".split()


def write_tiny_tokenizer(path: Path) -> Path:
    """Write a ``tokenizer.json`` with BERT's normaliser, pre-tokeniser and template over the tiny vocabulary."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: index for index, word in enumerate(TINY_VOCABULARY)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return path
