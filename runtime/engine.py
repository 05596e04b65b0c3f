"""The contract that every engine keeps, the PyTorch reference among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..bundle.specs import Layout, TensorSpec

Feed = Mapping[str, npt.NDArray[np.int64]]
Outputs = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class EngineOptions:
    """How to run an engine on this machine.

    Attributes:
        threads: intra-op threads.
        exclusive: no other engine shares the cores, so that waiting threads may spin.
    """

    threads: int
    exclusive: bool = False


class Engine(Protocol):
    """A loaded model that turns a feed into outputs.

    ``run`` may be called from any thread, by one thread at a time. It releases the interpreter lock while computing.
    """

    @property
    def id(self) -> str:
        """The id in the manifest, e.g. ``onnx-int8``."""
        ...

    @property
    def layout(self) -> Layout:
        """How rows must be laid out."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the graph declares; a feed has exactly these names."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the graph answers, ``logits`` FP32 [-1, classes] among them."""
        ...

    def run(self, feed: Feed) -> Outputs:
        """Compute.

        Args:
            feed: by input name, INT64; padded layout: [rows, length].

        Returns:
            By output name, float32, rows first. Values may be non-finite: the caller checks (``tasks.checked_logits``).

        Raises:
            EngineFailed: the runtime raised.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds. A second call does nothing."""
        ...
