"""What a server says of its models beyond their metadata, as plain values: configuration, statistics, index.

Fields have the names that the protocol gives them, so that one rule makes the protobuf message and the JSON text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ConfigInput:
    """An input of a configuration.

    Attributes:
        name: as in the metadata.
        data_type: e.g. ``TYPE_STRING`` for BYTES, ``TYPE_FP32``.
        dims: shape; where ``max_batch_size`` is not 0, of one row, the first axis of the metadata's shape left out.
        optional: whether a request may leave it out.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class ConfigOutput:
    """An output of a configuration, as :class:`ConfigInput`."""

    name: str
    data_type: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class DynamicBatching:
    """Requests are batched across callers.

    Attributes:
        preferred_batch_size: rows of a batch that are worth a wait; none: as many as wait.
        max_queue_delay_microseconds: longest wait for company.
        priority_levels: from 1, which goes first, to this; 0 where there are none.
        default_priority_level: of a request that names none.
    """

    preferred_batch_size: tuple[int, ...] = ()
    max_queue_delay_microseconds: int = 0
    priority_levels: int = 0
    default_priority_level: int = 0


@dataclass(frozen=True)
class TransactionPolicy:
    """Whether a request may have more answers than one, or none."""

    decoupled: bool = False


@dataclass(frozen=True)
class ConfigParameter:
    """A property of a model, in the model's own words."""

    string_value: str


@dataclass(frozen=True)
class ModelConfig:
    """``ModelConfig``: what load generators need to make requests.

    Attributes:
        name: model name.
        platform: as in the metadata.
        backend: the engine's runtime.
        max_batch_size: most rows of one request; 0: the rows are an axis of ``dims``.
        input: inputs.
        output: outputs.
        dynamic_batching: how long a request may wait for company.
        model_transaction_policy: one answer a request.
        parameters: the properties of the metadata, for which the gRPC metadata has no place, and ``max_rows``.
    """

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: tuple[ConfigInput, ...]
    output: tuple[ConfigOutput, ...]
    dynamic_batching: DynamicBatching = field(default_factory=DynamicBatching)
    model_transaction_policy: TransactionPolicy = field(default_factory=TransactionPolicy)
    parameters: Mapping[str, ConfigParameter] = field(default_factory=dict)


@dataclass(frozen=True)
class Duration:
    """How often something happened and how many nanoseconds it took in all."""

    count: int = 0
    ns: int = 0


@dataclass(frozen=True)
class InferStatistics:
    """Requests: ``success`` is the sum of ``queue`` and the three ``compute`` stages; there is no cache to hit."""

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    cache_hit: Duration = field(default_factory=Duration)
    cache_miss: Duration = field(default_factory=Duration)


@dataclass(frozen=True)
class BatchStatistics:
    """Engine calls of one number of rows."""

    batch_size: int
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass(frozen=True)
class ModelStatistics:
    """``ModelStatistics``: sums since the start, of one version of one model.

    Attributes:
        name: model name.
        version: its version.
        last_inference: when the last answer was made, milliseconds since 1970; 0 before the first.
        inference_count: rows answered.
        execution_count: engine calls that gave logits.
        inference_stats: requests.
        batch_stats: engine calls by number of rows, smallest first.
    """

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics
    batch_stats: tuple[BatchStatistics, ...]


@dataclass(frozen=True)
class IndexEntry:
    """One version of one model in the index.

    Attributes:
        name: model name.
        version: its version; empty while it is being loaded.
        state: ``READY``, ``LOADING`` or ``UNAVAILABLE``.
        reason: why it isn't ready.
    """

    name: str
    version: str
    state: str
    reason: str = ""
