"""What the server says of itself and of its models, in the protocol's words. Pure."""

from __future__ import annotations

from collections.abc import Sequence, Set
from importlib.metadata import PackageNotFoundError, version

from ..bundle.specs import TensorSpec
from ..wire.codec_descriptions import data_type
from ..wire.descriptions import ConfigInput, ConfigOutput, ConfigParameter, DynamicBatching, IndexEntry, ModelConfig
from ..wire.tensors import ServerMetadata
from .served import Served
from .served_model import Capacity
from .ticket import Priority

SERVER_NAME = "nlpdeploy"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "schedule_policy", "statistics")
"""Of the protocol, kept whole by both fronts. The index alone doesn't make ``model_repository``, which loads too."""


def server_metadata() -> ServerMetadata:
    """Name, version, extensions."""
    try:
        release = version("nlpdeploy")
    except PackageNotFoundError:
        release = "unknown"
    return ServerMetadata(SERVER_NAME, release, EXTENSIONS)


def model_config(served: Served, capacity: Capacity) -> ModelConfig:
    """How a model may be asked.

    Rows are an axis of the tensors' own, so to Triton's clients it is a model that does not batch: in one that does,
    every row needs an axis of its own, which a text has not.
    """
    metadata = served.metadata
    return ModelConfig(
        name=served.name,
        platform=metadata.platform,
        backend=metadata.platform.rpartition("_")[0] or metadata.platform,
        max_batch_size=0,
        input=tuple(ConfigInput(*_tensor(spec)) for spec in metadata.inputs),
        output=tuple(ConfigOutput(*_tensor(spec)) for spec in metadata.outputs),
        dynamic_batching=DynamicBatching(
            max_queue_delay_microseconds=round(capacity.policy.linger * 1e6),
            priority_levels=max(Priority),
            default_priority_level=Priority.NORMAL,
        ),
        parameters={
            **{name: ConfigParameter(value) for name, value in metadata.properties.items()},
            "max_rows": ConfigParameter(str(capacity.limits.rows)),
        },
    )


def index(models: Sequence[Served], expected: Set[str], *, opened: bool, draining: bool) -> list[IndexEntry]:
    """All that is served or, before the server has opened, expected, with the reason why one doesn't answer."""
    missing = () if opened else sorted(expected - {served.name for served in models})
    entries = [IndexEntry(name, "", "LOADING") for name in missing]
    for served in models:
        state, reason = "READY" if opened else "LOADING", ""
        if not served.ready():
            state, reason = "UNAVAILABLE", served.trouble()
        elif draining:
            state, reason = "UNAVAILABLE", "the server is going down"
        entries.append(IndexEntry(served.name, served.version, state, reason))
    return entries


def _tensor(spec: TensorSpec) -> tuple[str, str, tuple[int, ...]]:
    return spec.name, data_type(spec.dtype), tuple(spec.shape)
