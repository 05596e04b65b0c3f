"""Text -> token rows, on ``tokenizers`` alone.

The tokenizer file in the bundle was written by ``export/`` with its truncation already checked against the model's
positions; padding is the batch planner's business and is switched off here.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from ..bundle.errors import InvalidInput


@dataclass(frozen=True)
class Row:
    """One tokenised text or pair.

    Attributes:
        input_ids: INT64 [tokens], special tokens included.
        token_type_ids: INT64 [tokens].
        truncated: whether the text was cut to the usable length.
    """

    input_ids: npt.NDArray[np.int64]
    token_type_ids: npt.NDArray[np.int64]
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.input_ids)


CHARACTERS_PER_TOKEN = 16
"""A text with more of them than the usable tokens could take is not read to its end at once."""


class TextEncoder:
    """Tokenises with one private copy of the tokenizer for each thread (a shared one raises ``Already borrowed``).

    Args:
        tokenizer: path of a ``tokenizer.json``.
        max_length: usable tokens of a row, special tokens included; longer texts are cut on the right, pairs
            longest first.

    Raises:
        InvalidInput: the file is no tokenizer.
    """

    def __init__(self, tokenizer: Path, max_length: int) -> None:
        self._json = tokenizer.read_text(encoding="utf-8")
        self.max_length = max_length
        self._local = threading.local()
        self._tokenizer()

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Row]:
        """Tokenise texts, or pairs of them.

        Args:
            texts: first texts.
            pairs: second texts, as many.

        Returns:
            One row for each text, in order.

        Raises:
            InvalidInput: the two lists differ in length, or a text can't be encoded (a lone surrogate).
        """
        if pairs is not None and len(pairs) != len(texts):
            raise InvalidInput("text_pair", found=f"{len(pairs)} texts", wanted=f"{len(texts)}, as many as text")
        tokenizer = self._tokenizer()
        try:
            heads = [self._head(tokenizer, text) for text in texts]
            if pairs is None:
                encodings = tokenizer.encode_batch_fast(heads)  # without offsets, which nobody reads
            else:
                seconds = [self._head(tokenizer, text) for text in pairs]
                encodings = tokenizer.encode_batch_fast(list(zip(heads, seconds, strict=True)))
        except (TypeError, UnicodeEncodeError) as error:
            raise InvalidInput(f"text can't be encoded as UTF-8 ({error})") from None
        return [
            Row(np.array(e.ids, dtype=np.int64), np.array(e.type_ids, dtype=np.int64), bool(e.overflowing))
            for e in encodings
        ]

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids, added tokens included."""
        return int(self._tokenizer().get_vocab_size())

    def _head(self, tokenizer: Tokenizer, text: str) -> str:
        """So much of a very long text as decides its first tokens; a tokenizer would take seconds for each megabyte.

        A beginning with twice the tokens that are used is enough: where it is cut, only its last tokens are others.
        """
        size = CHARACTERS_PER_TOKEN * self.max_length
        while size < len(text):
            head = text[:size]
            if len(tokenizer.encode(head).overflowing) > 1:
                return head
            size *= 8
        return text

    def _tokenizer(self) -> Tokenizer:
        found: Tokenizer | None = getattr(self._local, "tokenizer", None)
        if found is None:
            try:
                found = Tokenizer.from_str(self._json)
            except Exception as error:  # noqa: BLE001  (the library raises bare Exception)
                raise InvalidInput(f"tokenizer.json can't be read ({error})") from None
            found.no_padding()
            found.enable_truncation(self.max_length, strategy="longest_first")
            self._local.tokenizer = found
        return found
