"""A checkpoint's tokenizer as one ``tokenizer.json``, proven to give the same ids as Transformers' own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle.errors import InvalidInput, NotFound, Unsupported
from .architectures import transformers

VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
"""Files of which one must be there: without any, Transformers would make up an empty tokenizer."""

NO_LIMIT = 1_000_000
"""``model_max_length`` above this is the sentinel 1e30 that says "not known"."""

PROBES = (
    "I lost my card, what now?",
    "Où est MA carte ?  ÀÉÎ  naïve",
    "建议入住的人自己考虑清楚。我的卡在哪里？",
    "Refund £12.50 to acc. 0042-77 😀 asap!!",
    "hello",
    "  spaces \t and\nlines  ",
    "",
)


@dataclass(frozen=True)
class TokenizerFile:
    """What the bundle keeps of a tokenizer.

    Attributes:
        text: the ``tokenizer.json``, without padding, truncation on the right set to ``max_length``.
        max_length: usable tokens of a row, special tokens included.
        pad_id: id that fills padded rows.
        notes: what was taken by default.
    """

    text: str
    max_length: int
    pad_id: int
    notes: tuple[str, ...]


def read_tokenizer(folder: Path, config: Any, *, positions: int, token_types: bool) -> TokenizerFile:
    """Read, convert, limit and prove a folder's tokenizer.

    Args:
        folder: holds the tokenizer's files.
        config: the model's configuration object.
        positions: tokens that the model has positions for.
        token_types: whether the model is fed segment ids.

    Raises:
        NotFound: no vocabulary.
        InvalidInput: damaged, or it makes ids that the model has no embedding for.
        Unsupported: no fast tokenizer can be made of it.
    """
    original = _load(folder, config)
    largest = max(original.get_vocab().values(), default=-1)
    if largest >= config.vocab_size:
        raise InvalidInput(
            f"tokenizer of {folder}",
            found=f"ids up to {largest}",
            wanted=f"ids below {config.vocab_size}, the model's vocab_size",
            mend="use the tokenizer that the model was trained with",
        )
    max_length, notes = _usable_length(original, positions)
    pad_id, pad_notes = _pad_id(original, config)
    text = _serialise(
        original, max_length, zero_types=token_types and "token_type_ids" not in original.model_input_names
    )
    _prove(text, original, max_length, token_types, folder)
    if getattr(original, "truncation_side", "right") != "right":
        notes.append("the tokenizer cuts long texts on the left; here they are cut on the right")
    return TokenizerFile(text, max_length, pad_id, (*notes, *pad_notes))


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a vocabulary."""
    return any((folder / name).is_file() for name in VOCABULARIES)


def _load(folder: Path, config: Any) -> Any:
    if not has_tokenizer(folder):
        raise NotFound(
            f"no tokenizer in {folder}",
            wanted=f"one of {', '.join(VOCABULARIES)}",
            mend="save it beside the model: tokenizer.save_pretrained(FOLDER)",
        )
    try:
        original = transformers().AutoTokenizer.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False
        )
    except ImportError as error:
        raise Unsupported(f"tokenizer of {folder} needs a package to be converted ({_line(error)})") from None
    except Exception as error:  # noqa: BLE001  (each tokenizer class fails in its own way)
        # Of a damaged or unreadable SentencePiece model Transformers says that it needs a package for another format.
        model = any(path.suffix == ".model" for path in folder.iterdir()) and not (folder / "tokenizer.json").is_file()
        raise InvalidInput(
            f"tokenizer of {folder} can't be read ({_line(error)})",
            mend="check that its .model file is whole, or save the tokenizer with a tokenizer.json" if model else None,
        ) from None
    if not getattr(original, "is_fast", False):
        raise Unsupported(
            f"tokenizer of {folder}", found=type(original).__name__, wanted="one that has a tokenizer.json"
        )
    return original


def _usable_length(original: Any, positions: int) -> tuple[int, list[str]]:
    stated = original.model_max_length
    if stated is None or stated > NO_LIMIT:
        return positions, [f"the tokenizer states no limit: texts are cut at the model's {positions} positions"]
    if stated > positions:
        note = f"the tokenizer's limit of {stated} is above the model's {positions} usable positions, which hold"
        return positions, [note]
    return int(stated), []


def _pad_id(original: Any, config: Any) -> tuple[int, list[str]]:
    """The model's own, where the two differ: RoBERTa tells padding by it and counts positions accordingly."""
    ours, tokens = config.pad_token_id, original.pad_token_id
    if ours is None and tokens is None:
        return 0, ["neither config.json nor the tokenizer names a pad id: 0 is used"]
    if ours is not None and tokens is not None and ours != tokens:
        return int(ours), [f"pad id {ours} of config.json is used, not the tokenizer's {tokens}"]
    return int(tokens if ours is None else ours), []


def _serialise(original: Any, max_length: int, *, zero_types: bool) -> str:
    from tokenizers import Tokenizer

    # A copy: the pipeline goes on using the original.
    copy = Tokenizer.from_str(original.backend_tokenizer.to_str())
    copy.no_padding()
    try:
        copy.enable_truncation(max_length, strategy="longest_first", direction="right")
    except Exception as error:  # noqa: BLE001  (the library raises bare Exception)
        raise InvalidInput("usable length of a row", found=max_length, wanted=f"room for a token ({error})") from None
    plain = json.loads(copy.to_str())
    if zero_types:
        # Where the tokenizer makes no segment ids Transformers' models take zeros.
        for entry in _entries(plain.get("post_processor")):
            if "type_id" in entry:
                entry["type_id"] = 0
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))


def _entries(plain: Any) -> Iterator[dict[str, Any]]:
    if isinstance(plain, dict):
        yield plain
    for inner in plain.values() if isinstance(plain, dict) else plain if isinstance(plain, list) else ():
        yield from _entries(inner)


def _prove(text: str, original: Any, max_length: int, token_types: bool, folder: Path) -> None:
    """Raise unless the serialised tokenizer answers as the original does: alone, in pairs, and cut."""
    from tokenizers import Tokenizer

    saved = Tokenizer.from_str(text)
    long = " ".join(PROBES) * (1 + max_length // 20)
    alone = [(probe, None) for probe in (*PROBES, long)]
    paired = [(probe, other) for probe, other in zip(PROBES, reversed(PROBES), strict=True)] + [(long, PROBES[0])]
    original.truncation_side = "right"
    for first, second in alone + paired:
        # As lists: a bare empty second text would be taken for none.
        others = None if second is None else [second]
        want = original([first], others, truncation="longest_first", max_length=max_length)
        ids, types = want["input_ids"][0], want.get("token_type_ids")
        got = saved.encode(first, second)
        if got.ids != ids or (token_types and got.type_ids != (types[0] if types else [0] * len(ids))):
            raise Unsupported(
                f"tokenizer of {folder}: as tokenizer.json it gives other ids than {type(original).__name__}",
                found=got.ids[:8],
                wanted=ids[:8],
            )


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
