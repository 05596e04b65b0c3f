"""What a worker reports to TorchServe's own metrics, a line in its log for each."""

from __future__ import annotations

import contextlib
from typing import Any

ENCODE, INFER = "nlpdeploy_encode_seconds", "nlpdeploy_infer_seconds"
TOKENS, BATCH = "nlpdeploy_tokens_total", "nlpdeploy_batch_texts"

DEFINITIONS = {
    "counter": [(TOKENS, "count")],
    "histogram": [(ENCODE, "s"), (INFER, "s"), (BATCH, "count")],
}
"""By type: (name, unit). In Prometheus mode TorchServe drops what its ``metrics_config`` doesn't name."""


class WorkerMetrics:
    """Reports each batch; silently nothing where TorchServe gives no metrics.

    Args:
        cache: the context's ``metrics``.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self._histogram: Any = None
        with contextlib.suppress(ImportError):
            from ts.metrics.metric_type_enum import MetricTypes

            self._histogram = MetricTypes.HISTOGRAM

    def batch(self, encode: float, infer: float, tokens: int, texts: int) -> None:
        """Report one batch: seconds of encoding and of the engine, tokens and texts."""
        if self._cache is None or self._histogram is None:
            return
        for name, seconds in ((ENCODE, encode), (INFER, infer)):
            self._cache.add_time(name, round(seconds, 6), unit="s", dimensions=[], metric_type=self._histogram)
        self._cache.add_metric(BATCH, texts, "count", dimensions=[], metric_type=self._histogram)
        self._cache.add_counter(TOKENS, tokens, dimensions=[])
