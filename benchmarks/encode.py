"""Section ``encode``: what tokenising costs, one text at a time and many at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nlpdeploy.runtime.predictor import TOKENIZER_FILE
from nlpdeploy.runtime.text import TextEncoder

from .results import print_table
from .samples import Arm, Spread, interleave, spread
from .subject import Subject

_SIZES = (1, 16, 64)
_ROUNDS = 50


@dataclass(frozen=True)
class EncodeResult:
    """The section's result.

    Attributes:
        tokens: of a text, special tokens included.
        us_per_text: by texts a call.
    """

    tokens: Spread
    us_per_text: dict[str, Spread]


def measure_encode(subject: Subject, *, seconds: float, seed: int) -> EncodeResult:
    """Time the bundle's tokenizer for ``seconds``, and print the table."""
    encoder = TextEncoder(subject.bundle / TOKENIZER_FILE, subject.manifest.model.max_length)
    rows = encoder.encode(subject.texts)
    samples = interleave(
        {str(size): _arm(encoder, subject.texts, size) for size in _SIZES},
        seconds=seconds,
        least=_ROUNDS,
        rng=np.random.default_rng(seed),
    )
    result = EncodeResult(
        tokens=spread([len(row) for row in rows]),
        us_per_text={size: spread(taken, 1e6) for size, taken in samples.items()},
    )
    print_table(
        f"encode: texts of {result.tokens:.0f} tokens; median [quartiles]",
        ("texts a call", "us a text"),
        [(size, f"{taken:.1f}") for size, taken in result.us_per_text.items()],
    )
    return result


def _arm(encoder: TextEncoder, texts: Sequence[str], size: int) -> Arm:
    def call(index: int) -> float:
        batch = [texts[(index * size + k) % len(texts)] for k in range(size)]
        started = time.perf_counter()
        encoder.encode(batch)
        return (time.perf_counter() - started) / size

    return call
