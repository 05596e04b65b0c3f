"""What an instance says that it serves. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property

from ..bundle.errors import EngineFailed, InvalidInput
from ..bundle.manifest import from_plain
from ..bundle.specs import Activation, ModelSpec, Task
from ..wire.json_text import parse_json
from ..wire.tensors import ModelMetadata
from .upstream_told import UNKNOWN, ToldModel


@dataclass(frozen=True)
class Description:
    """What an instance serves under a name.

    Attributes:
        model: task, labels and limits; a :class:`ToldModel` for an archive that nlpdeploy did not pack.
        version: of the model in TorchServe.
        engine: id of the engine, or ``torchserve``.
        digest: the bundle's identity, or ``unknown``.
        runtime: the engine's, or ``torchserve``.
        precision: the engine's, or ``unknown``.
        layout: of the engine's rows, or ``unknown``.
        workers: that the archive was packed for; of no meaning to what is answered, as the next one.
        batch_size: most requests of one call.
    """

    model: ModelSpec
    version: str = ""
    engine: str = "torchserve"
    digest: str = UNKNOWN
    runtime: str = "torchserve"
    precision: str = UNKNOWN
    layout: str = UNKNOWN
    workers: int | None = field(default=None, compare=False)
    batch_size: int | None = field(default=None, compare=False)

    @property
    def told(self) -> bool:
        """Whether its answers are only told, in words."""
        return isinstance(self.model, ToldModel)

    @cached_property
    def classes(self) -> dict[bytes, int]:
        """Class by label, the first of equals."""
        return {label.encode(): index for index, label in reversed([*enumerate(self.model.labels)])}


def told_description() -> Description:
    """Of an archive that another tool packed."""
    model = ToldModel(
        task=Task.CLASSIFICATION,
        activation=Activation.NONE,
        activation_source="the archive's own",
        labels=(UNKNOWN,),
        pair=False,
        max_length=1,
        pad_id=0,
    )
    return Description(model)


def read_description(body: bytes) -> Description | None:
    """What a handler of nlpdeploy says of itself; None where an answer is no such description.

    Raises:
        EngineFailed: it is one, and not all that a front needs is in it.
    """
    try:
        said = parse_json(body)
    except InvalidInput:
        return None
    if not isinstance(said, dict) or "bundle_digest" not in said or "engine" not in said:
        return None
    names = [name for name in ModelSpec.__dataclass_fields__ if name != "pad_id"]  # which is the workers' business
    words = ("version", "engine", "runtime", "precision", "layout")
    try:
        model = from_plain(ModelSpec, {**{name: said[name] for name in names}, "pad_id": 0})
        version, engine, runtime, precision, layout = (from_plain(str, said[name]) for name in words)
        digest = from_plain(str, said["bundle_digest"])
        workers, batch_size = from_plain(int, said["workers"]), from_plain(int, said["batch_size"])
        return Description(model, version, engine, digest, runtime, precision, layout, workers, batch_size)
    except (KeyError, InvalidInput):
        mend = "pack the archive again with this nlpdeploy"
        raise EngineFailed("description of the archive", found="one of another nlpdeploy", mend=mend) from None


def metadata_of(described: Description, name: str, version: str) -> ModelMetadata:
    """What such a model takes and gives, under the name and version that callers use."""
    model = described.model
    known = {} if described.told else {
        "activation": model.activation.value,
        "max_length": str(model.max_length),
        "labels": json.dumps(list(model.labels), ensure_ascii=False),
    }  # fmt: skip
    return ModelMetadata(
        name=name,
        versions=(version,),
        platform=described.runtime if described.told else f"{described.runtime}_{described.precision}",
        inputs=model.text_inputs(),
        outputs=model.outputs(),
        properties={
            "engine": described.engine,
            "bundle_digest": described.digest,
            "task": model.task.value,
            "upstream": "torchserve",
            **known,
        },
    )
