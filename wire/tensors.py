"""Requests and answers of the Open Inference Protocol as plain values, the same for gRPC and HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..bundle.specs import TensorSpec

Parameter = bool | int | float | str


@dataclass(frozen=True)
class Tensor:
    """A named tensor.

    Attributes:
        name: as in the model's metadata.
        dtype: the protocol's word: BOOL, INT8 … UINT64, FP16, FP32, FP64, BYTES.
        data: the values in their shape; BYTES is an object array of ``bytes``.
    """

    name: str
    dtype: str
    data: npt.NDArray[np.generic]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the data."""
        return self.data.shape


@dataclass(frozen=True)
class InferRequest:
    """``ModelInfer``.

    Attributes:
        model: model name.
        version: empty for the server's choice.
        id: echoed in the answer.
        inputs: input tensors.
        outputs: names asked for; empty for the model's default ones.
        parameters: e.g. ``timeout`` (microseconds) and ``priority``.
    """

    model: str
    inputs: tuple[Tensor, ...]
    version: str = ""
    id: str = ""
    outputs: tuple[str, ...] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


@dataclass(frozen=True)
class InferResponse:
    """The answer to :class:`InferRequest`, outputs in the order asked for."""

    model: str
    version: str
    id: str
    outputs: tuple[Tensor, ...]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelMetadata:
    """``ModelMetadata``: what a model takes and gives."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ServerMetadata:
    """``ServerMetadata``."""

    name: str
    version: str
    extensions: tuple[str, ...]
