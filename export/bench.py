"""The checkpoint's side of an export: the reference and its answers, with which every engine is compared."""

from __future__ import annotations

from dataclasses import dataclass

from ..bundle.evidence import Accuracy
from ..runtime.engine import Engine
from ..runtime.text import Row, TextEncoder
from .accuracy import measure_accuracy
from .checkpoint import Checkpoint
from .corpus import Corpus
from .parity import ReferenceAnswers, parity_grid, reference_answers
from .reference import TorchReference
from .request import Progress
from .threads import reference_threads


@dataclass
class Bench:
    """What every engine is compared with, and the loaded engines that passed so far, by id."""

    checkpoint: Checkpoint
    corpus: Corpus
    rows: list[Row]
    reference: TorchReference
    answers: ReferenceAnswers
    accuracy: Accuracy | None
    passed: dict[str, Engine]


def measure_reference(checkpoint: Checkpoint, corpus: Corpus, encoder: TextEncoder, progress: Progress) -> Bench:
    """Load the checkpoint and compute its answers to the grid and to every row of the corpus, each row alone."""
    progress("loading the checkpoint into PyTorch", 0, 0)
    rows = encoder.encode(corpus.texts, corpus.pairs)
    grid = parity_grid(encoder, corpus.texts, corpus.pairs, checkpoint.model)
    # One thread: rows alone gain little from a second, and lose much where its barriers wait for a busy core.
    asked = TorchReference(checkpoint, threads=1)
    answers = reference_answers(asked, grid, rows, checkpoint.model, progress=progress)
    asked.close()
    accuracy = None
    if corpus.labels is not None:
        accuracy = measure_accuracy(answers.logits, corpus.labels, checkpoint.model, answers.logits)
    reference = TorchReference(checkpoint, threads=reference_threads(checkpoint, rows))
    return Bench(checkpoint, corpus, rows, reference, answers, accuracy, passed={})
