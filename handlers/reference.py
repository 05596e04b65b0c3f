"""The untouched checkpoint in eager PyTorch behind the same requests and answers: the baseline in TorchServe.

It does what a plain handler does, with Transformers' own tokenizer and model. torch and transformers are imported when
a worker starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.digest import read_manifest
from ..bundle.errors import EngineFailed, EngineUnavailable, InvalidInput
from ..bundle.specs import Layout, TensorSpec
from ..runtime.engine import Feed, Outputs
from ..runtime.predictor import Predictor
from ..runtime.text import Row, TextEncoder
from .handler import BundleHandler
from .sealed import BUNDLE_FOLDER, CHECKPOINT_FOLDER
from .settings import WorkerSettings


class ReferenceHandler(BundleHandler):
    """Answers with the checkpoint that lies in the archive."""

    def load(self, folder: Path, settings: WorkerSettings, threads: int) -> Predictor:
        """See ``BundleHandler.load``."""
        manifest = read_manifest(folder / BUNDLE_FOLDER)
        checkpoint = folder / CHECKPOINT_FOLDER
        encoder = TransformersEncoder(checkpoint, manifest.model.max_length)
        return Predictor(manifest, encoder, EagerEngine(checkpoint, len(manifest.model.labels), threads))


class TransformersEncoder(TextEncoder):
    """The checkpoint's own tokenizer as Transformers runs it.

    Raises:
        EngineUnavailable: Transformers is missing or can't read the tokenizer.
    """

    def __init__(self, checkpoint: Path, max_length: int) -> None:
        try:
            from transformers import AutoTokenizer

            self._own: Any = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
        except (ImportError, OSError, ValueError) as error:
            raise EngineUnavailable(f"the checkpoint's tokenizer ({error})", mend="pip install transformers") from None
        self.max_length = max_length

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Row]:
        """One row for each text.

        Raises:
            InvalidInput: a text can't be encoded.
        """
        try:
            found = self._own(
                list(texts), None if pairs is None else list(pairs), truncation=True, max_length=self.max_length,
                return_token_type_ids=True, return_overflowing_tokens=False,
            )  # fmt: skip
        except (TypeError, ValueError, UnicodeEncodeError) as error:
            raise InvalidInput(f"text can't be encoded ({error})") from None
        columns = zip(found["input_ids"], found["token_type_ids"], strict=True)
        # Transformers doesn't say whether it cut; a row of full length is taken for one that it did.
        return [Row(np.array(ids), np.array(types), len(ids) == self.max_length) for ids, types in columns]


class EagerEngine:
    """The checkpoint's own model, fp32; keeps the contract of ``runtime.engine.Engine``.

    Raises:
        EngineUnavailable: torch or Transformers is missing, or can't read the checkpoint.
    """

    id = "torch-fp32"
    layout = Layout.PADDED

    def __init__(self, checkpoint: Path, classes: int, threads: int) -> None:
        try:
            import torch
            from transformers import AutoModelForSequenceClassification

            torch.set_num_threads(threads)
            model = AutoModelForSequenceClassification.from_pretrained(
                checkpoint, local_files_only=True, dtype=torch.float32
            )
        except (ImportError, OSError, ValueError) as error:
            raise EngineUnavailable(f"the checkpoint ({error})", mend="pip install torch transformers") from None
        self._torch, self._model = torch, model.eval()
        names = ["input_ids", "attention_mask"]
        if getattr(model.config, "type_vocab_size", 0) > 1:
            names.append("token_type_ids")
        self.inputs = tuple(TensorSpec(name, "INT64", (-1, -1)) for name in names)
        self.outputs = (TensorSpec("logits", "FP32", (-1, classes)),)

    def run(self, feed: Feed) -> Outputs:
        """See ``Engine.run``."""
        try:
            with self._torch.inference_mode():
                logits = self._model(**{name: self._torch.from_numpy(value) for name, value in feed.items()}).logits
        except RuntimeError as error:
            raise EngineFailed(f"engine {self.id}", found=str(error).splitlines()[0]) from None
        return {"logits": np.asarray(logits.numpy(), np.float32)}

    def close(self) -> None:
        """Nothing to free."""
