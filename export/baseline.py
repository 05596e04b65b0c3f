"""The untouched checkpoint as a predictor, so that a server can answer with it where only the engine differs."""

from __future__ import annotations

from pathlib import Path

from ..bundle.digest import verified_manifest
from ..bundle.errors import InvalidInput
from ..runtime.cores import usable_cores
from ..runtime.lanes import fill_cores
from ..runtime.predictor import TOKENIZER_FILE, Predictor, golden_row
from ..runtime.text import TextEncoder
from .checkpoint import read_checkpoint
from .reference import TorchReference
from .threads import reference_threads


def reference_predictor(bundle: Path, checkpoint: Path, *, threads: int | None = None) -> Predictor:
    """A predictor on a bundle's tokenizer and labels, with eager PyTorch on the checkpoint as its engine.

    Args:
        bundle: the bundle's folder; verified.
        checkpoint: the folder that the bundle came from.
        threads: PyTorch's threads; by default as many as answer the golden samples fastest here. Where it is one, the
            predictor has lanes as an exported engine would.

    Raises:
        InvalidInput: the checkpoint's weights are not those that the bundle was made from.
    """
    manifest = verified_manifest(bundle)
    model = manifest.model
    read = read_checkpoint(checkpoint, task=str(model.task), activation=str(model.activation), pair=model.pair)
    if set(read.source.weights.values()) != set(manifest.source.weights.values()):
        raise InvalidInput(
            f"checkpoint {checkpoint} is not the one that {manifest.name} came from",
            found=", ".join(f"{name} {digest[:12]}" for name, digest in sorted(read.source.weights.items())),
            wanted=", ".join(f"{name} {digest[:12]}" for name, digest in sorted(manifest.source.weights.items())),
            mend=f"it was exported from {manifest.source.path}",
        )
    encoder = TextEncoder(bundle / TOKENIZER_FILE, model.max_length)
    rows = [golden_row(sample.input_ids, sample.token_type_ids) for sample in manifest.golden]
    wished = threads or reference_threads(read, rows)
    lanes, filled = fill_cores(wished, usable_cores())
    first, *others = [TorchReference(read, threads=threads or filled) for _ in range(lanes)]
    return Predictor(manifest, encoder, first, others)
