"""What became of one model's requests and engine calls, summed up since the start. Used on the event loop only.

The same moments as in the metrics, in the sums that the protocol's statistics call asks for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from ..wire.descriptions import BatchStatistics, Duration, InferStatistics, ModelStatistics


class Statistics:
    """The sums of one version of one model."""

    def __init__(self) -> None:
        self._answers = self._rows = self._failures = 0
        self._failure_seconds = 0.0
        self._stages = dict.fromkeys(("encode", "queue", "infer", "decode"), 0.0)
        self._calls: dict[int, int] = {}
        self._call_seconds: dict[int, float] = {}
        self._last = 0.0

    def answered(self, rows: int, stages: Mapping[str, float]) -> None:
        """A request of so many rows got its answer; ``stages`` are seconds and make up its whole time."""
        self._answers += 1
        self._rows += rows
        for stage, seconds in stages.items():
            self._stages[stage] += seconds
        self._last = time.time()

    def failed(self, seconds: float) -> None:
        """A request ended without an answer, whyever: refused, failed, too late, or its caller left."""
        self._failures += 1
        self._failure_seconds += seconds

    def ran(self, rows: int, seconds: float) -> None:
        """An engine call gave logits for so many rows."""
        self._calls[rows] = self._calls.get(rows, 0) + 1
        self._call_seconds[rows] = self._call_seconds.get(rows, 0.0) + seconds

    def read(self, name: str, version: str) -> ModelStatistics:
        """The sums so far. What a call spends on laying rows out counts as ``compute_infer`` of its batch."""
        stages = {stage: Duration(self._answers, _nanoseconds(seconds)) for stage, seconds in self._stages.items()}
        requests = InferStatistics(
            success=Duration(self._answers, sum(stage.ns for stage in stages.values())),
            fail=Duration(self._failures, _nanoseconds(self._failure_seconds)),
            queue=stages["queue"],
            compute_input=stages["encode"],
            compute_infer=stages["infer"],
            compute_output=stages["decode"],
        )
        batches = tuple(
            BatchStatistics(
                rows,
                compute_input=Duration(calls),
                compute_infer=Duration(calls, _nanoseconds(self._call_seconds[rows])),
                compute_output=Duration(calls),
            )
            for rows, calls in sorted(self._calls.items())
        )
        return ModelStatistics(
            name=name,
            version=version,
            last_inference=round(self._last * 1000),
            inference_count=self._rows,
            execution_count=sum(self._calls.values()),
            inference_stats=requests,
            batch_stats=batches,
        )


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
