"""The reference that every engine is held against: the untouched checkpoint in eager PyTorch, fp32."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..bundle.errors import EngineFailed, InvalidInput, Unsupported
from ..bundle.specs import Layout, TensorSpec
from ..runtime.cores import usable_cores
from ..runtime.engine import Feed, Outputs
from .checkpoint import Checkpoint, load_torch


class TorchReference:
    """The checkpoint as an engine (``runtime.engine.Engine``), with the attention that Transformers itself would take.

    Args:
        checkpoint: as read.
        threads: PyTorch's threads, by default the usable cores. The setting holds for the whole process.

    Raises:
        InvalidInput, Unsupported: as :func:`load_torch`.
    """

    def __init__(self, checkpoint: Checkpoint, *, threads: int | None = None) -> None:
        import torch

        self.threads = threads or usable_cores()
        torch.set_num_threads(self.threads)
        try:
            self._model: Any = load_torch(checkpoint, attention="sdpa")
        except Unsupported:
            self._model = load_torch(checkpoint, attention="eager")
        self.inputs = tuple(TensorSpec(name, "INT64", (-1, -1)) for name in checkpoint.inputs)
        self.outputs = (TensorSpec("logits", "FP32", (-1, len(checkpoint.model.labels))),)

    @property
    def id(self) -> str:
        """The id of the reference in tables and manifests."""
        return "torch-fp32"

    @property
    def layout(self) -> Layout:
        """One row a text, padded."""
        return Layout.PADDED

    def run(self, feed: Feed) -> Outputs:
        """Compute the logits.

        Args:
            feed: exactly :attr:`inputs`, INT64 [rows, length].

        Returns:
            ``logits`` float32 [rows, classes].

        Raises:
            InvalidInput: other inputs than declared.
            EngineFailed: PyTorch raised, e.g. an id without an embedding; or the engine is closed.
        """
        import torch

        names = tuple(spec.name for spec in self.inputs)
        if set(feed) != set(names):
            raise InvalidInput("feed of torch-fp32", found=", ".join(sorted(feed)), wanted=", ".join(names))
        if self._model is None:
            raise EngineFailed("torch-fp32 is closed")
        tensors = {name: torch.tensor(np.asarray(feed[name])) for name in names}
        try:
            with torch.inference_mode():
                logits = self._model(**tensors).logits
        except (RuntimeError, IndexError, ValueError) as error:
            raise EngineFailed(f"torch-fp32 raised ({error})") from None
        return {"logits": logits.numpy()}

    def use_threads(self, threads: int) -> None:
        """Change the number of threads; as the setting is PyTorch's, of every reference in the process."""
        import torch

        torch.set_num_threads(threads)

    def close(self) -> None:
        """Free the model."""
        self._model = None
