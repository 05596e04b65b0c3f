"""What is known of the engine at work, and what callers are told of its model."""

from __future__ import annotations

import json

from ..bundle.manifest import EngineEntry
from ..runtime.predictor import Predictor
from ..wire.tensors import ModelMetadata
from .served import Served


def entry_of(predictor: Predictor) -> EngineEntry | None:
    """The manifest's entry of the engine at work; None for one that is in no bundle, as the PyTorch reference."""
    engine_id = predictor.engine.id
    return next((entry for entry in predictor.manifest.engines if entry.id == engine_id), None)


def metadata_of(served: Served, entry: EngineEntry | None) -> ModelMetadata:
    """What callers are told of a model: inputs, outputs, and what it is made of."""
    model = served.model
    return ModelMetadata(
        name=served.name,
        versions=(served.version,),
        platform=f"{entry.runtime}_{entry.precision}" if entry else served.engine_id,
        inputs=model.text_inputs(),
        outputs=model.outputs(),
        properties={
            "engine": served.engine_id,
            "bundle_digest": served.digest,
            "task": model.task.value,
            "activation": model.activation.value,
            "max_length": str(model.max_length),
            "labels": json.dumps(list(model.labels), ensure_ascii=False),
        },
    )
