"""A data plane over the tiny engine, and what tests ask of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nlpdeploy.bundle.errors import NlpdeployError
from nlpdeploy.bundle.specs import ModelSpec
from nlpdeploy.serve.plane import DataPlane
from nlpdeploy.serve.served_model import Capacity
from nlpdeploy.wire.tensors import InferRequest, InferResponse, Tensor

from .engines import TinyEngine, tiny_predictor


@asynccontextmanager
async def serving(
    folder: Path,
    engine: TinyEngine | None = None,
    model: ModelSpec | None = None,
    *,
    capacity: Capacity | None = None,
    default_timeout: float = 20.0,
) -> AsyncIterator[DataPlane]:
    """A plane that serves the tiny model, drained at the end."""
    plane = DataPlane(capacity, default_timeout=default_timeout)
    plane.add(tiny_predictor(folder, engine, model))
    plane.open()
    try:
        yield plane
    finally:
        await plane.drain(0.0)
        assert plane.close()


def ask(texts: Sequence[str], **options: Any) -> InferRequest:
    """A request by text."""
    data = np.array([text.encode() for text in texts] or [], dtype=object)
    return InferRequest("tiny", (Tensor("text", "BYTES", data),), **options)


def outputs_of(response: InferResponse) -> dict[str, list[Any]]:
    """Values by output name."""
    return {tensor.name: tensor.data.tolist() for tensor in response.outputs}


def labels_of(response: InferResponse) -> list[str]:
    """The label of each row."""
    return [label.decode() for label in outputs_of(response)["label"]]


def sample(plane: DataPlane, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels."""
    total = 0.0
    for family in plane.metrics.registry.collect():
        for point in family.samples:
            if point.name == name and all(point.labels.get(key) == value for key, value in labels.items()):
                total += point.value
    return total


async def gathered(plane: DataPlane, requests: Sequence[InferRequest]) -> list[InferResponse | NlpdeployError]:
    """Each request's answer, or the error that it got."""

    async def one(request: InferRequest) -> InferResponse | NlpdeployError:
        try:
            return (await plane.infer(request)).response
        except NlpdeployError as error:
            return error

    return await asyncio.gather(*map(one, requests))
