"""What the server counts, for Prometheus; never a text, and no label that a caller can choose."""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    generate_latest,
)

from ..bundle.errors import NlpdeployError
from .admission import Refusal
from .histogram import HistogramVector

SECONDS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.010, 0.015, 0.020, 0.030, 0.045, 0.060, 0.080, 0.100, 0.120, 0.160,
    0.250, 0.500, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Bounds at the usual targets (45 ms, 120 ms), so that the share within a target is exact, not interpolated."""

STAGES = ("encode", "queue", "infer", "decode")
ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
HTTP_REFUSALS = (400, 405, 408, 413, 431, 503)
MODEL = ("model", "version", "engine")
OK = "ok"
CANCELLED = "Cancelled"


def outcome_of(error: BaseException) -> str:
    """The outcome's label: an error's kind; ``bug`` for what is none of ours."""
    return type(error).__name__ if isinstance(error, NlpdeployError) else "bug"


class Metrics:
    """All counters of one server, in a registry of their own so that two servers fit into one process.

    Args:
        counting: count requests and engine calls; without it the page has states and limits alone.
    """

    content_type: str = CONTENT_TYPE_LATEST

    def __init__(self, *, counting: bool = True) -> None:
        self._counting = counting
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def histogram(name: str, text: str, labels: tuple[str, ...], bounds: tuple[float, ...]) -> HistogramVector:
            return HistogramVector(f"nlpdeploy_{name}", text, labels, bounds, self.registry)

        def counter(name: str, text: str, labels: tuple[str, ...]) -> Counter:
            return Counter(f"nlpdeploy_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, labels: tuple[str, ...]) -> Gauge:
            return Gauge(f"nlpdeploy_{name}", text, labels, registry=self.registry)

        self.requests = histogram("request_seconds", "From acceptance to the answer", (*MODEL, "outcome"), SECONDS)
        self.stages = histogram("stage_seconds", "Stages of answered requests", (*MODEL, "stage"), SECONDS)
        self.batch_seconds = histogram("batch_seconds", "Engine calls", MODEL, SECONDS)
        self.batch_rows = histogram("batch_rows", "Rows of an engine call", MODEL, ROWS)
        self.batch_tokens = histogram("batch_tokens", "Elements of an engine call, padding counted", MODEL, TOKENS)
        self.tokens = counter("tokens", "Tokens run, padding not counted", MODEL)
        self.truncated = counter("truncated_rows", "Rows that were cut to the usable length", MODEL)
        self.refusals = counter("refusals", "Work not done, by reason", (*MODEL, "reason"))
        self.queue_rows = gauge("queue_rows", "Rows that wait, tokenised or not", MODEL)
        self.queue_tokens = gauge("queue_tokens", "Tokens that wait", MODEL)
        self.open_requests = gauge("open_requests", "Requests accepted and not answered", MODEL)
        self.ready = gauge("model_ready", "1 while the model answers", MODEL)
        self.correction = gauge("forecast_correction", "Measured over forecast time of engine calls", MODEL)
        self.token_budget = gauge("batch_token_budget", "Most elements of an engine call", MODEL)
        self.lanes = gauge("model_lanes", "Engine calls that can run side by side", MODEL)
        self.threads = gauge("model_threads", "Threads of an engine: of each lane, of the wide one", (*MODEL, "kind"))
        self.info = gauge("model_info", "What is served", (*MODEL, "bundle_digest", "task", "precision", "layout"))
        # Requests that reached no model: their names are the caller's, so they are no labels.
        self.unrouted = counter("unrouted_requests", "Requests for no model that is served here", ("outcome",))
        self.limits = gauge("limit", "What this server bounds: bytes, seconds, rows, tokens, counts", ("limit",))
        peak = Gauge("nlpdeploy_peak_resident_bytes", "Most memory that was ever resident", registry=self.registry)
        peak.set_function(_peak_resident_bytes)
        # What HTTP clients send that is no request: it never reaches the data plane.
        self.http_refusals = counter("http_refusals", "Connections refused or ended by a limit", ("status",))
        self.log_left_out = Gauge("nlpdeploy_log_lines_left_out", "Request lines not logged", registry=self.registry)
        self.http_connections = Gauge("nlpdeploy_http_connections", "Open HTTP connections", registry=self.registry)
        self._http_refusals = {status: self.http_refusals.labels(str(status)) for status in HTTP_REFUSALS}

    def refused_by_http(self, status: int) -> None:
        """A connection was refused, or ended by a limit, with this status."""
        self._http_refusals[status].inc()

    def render(self) -> bytes:
        """The text that a Prometheus server scrapes."""
        return generate_latest(self.registry)

    def for_model(self, model: str, version: str, engine: str) -> ModelMetrics:
        """The counters of one model, its labels filled in."""
        kind = ModelMetrics if self._counting else SilentModelMetrics
        return kind(self, (model, version, engine))

    def limit(self, name: str, value: float) -> None:
        """State a limit of this server."""
        self.limits.labels(name).set(value)


class ModelMetrics:
    """The counters of one model.

    Args:
        metrics: of the server.
        labels: model, version, engine.
    """

    def __init__(self, metrics: Metrics, labels: tuple[str, str, str]) -> None:
        self._metrics = metrics
        self._labels = labels
        self._ok = metrics.requests.labels(*labels, OK)
        self._stages = {stage: metrics.stages.labels(*labels, stage) for stage in STAGES}
        self._refusals = {reason: metrics.refusals.labels(*labels, reason.value) for reason in Refusal}
        self._batch_seconds = metrics.batch_seconds.labels(*labels)
        self._batch_rows = metrics.batch_rows.labels(*labels)
        self._batch_tokens = metrics.batch_tokens.labels(*labels)
        self._tokens = metrics.tokens.labels(*labels)
        self._truncated = metrics.truncated.labels(*labels)

    def answered(self, seconds: float, stages: Mapping[str, float], truncated: int) -> None:
        """A request got its answer."""
        self._ok.observe(seconds)
        for stage, spent in stages.items():
            self._stages[stage].observe(spent)
        if truncated:
            self._truncated.inc(truncated)

    def failed(self, seconds: float, outcome: str) -> None:
        """A request ended without one."""
        self._metrics.requests.labels(*self._labels, outcome).observe(seconds)

    def refused(self, reason: Refusal) -> None:
        """Work was not done."""
        self._refusals[reason].inc()

    def ran(self, seconds: float, rows: int, elements: int, tokens: int) -> None:
        """An engine call ended, well or badly."""
        self._batch_seconds.observe(seconds)
        self._batch_rows.observe(rows)
        self._batch_tokens.observe(elements)
        self._tokens.inc(tokens)

    def describe(self, *, digest: str, task: str, precision: str, layout: str, lanes: int, token_budget: int) -> None:
        """State what is served."""
        self._metrics.info.labels(*self._labels, digest, task, precision, layout).set(1)
        self._metrics.lanes.labels(*self._labels).set(lanes)
        self._metrics.token_budget.labels(*self._labels).set(token_budget)

    def threads(self, *, lane: int, wide: int | None) -> None:
        """State the threads of each lane, and of the wide engine where there is one."""
        self._metrics.threads.labels(*self._labels, "lane").set(lane)
        if wide is not None:
            self._metrics.threads.labels(*self._labels, "wide").set(wide)

    def watch(
        self,
        *,
        depth: Callable[[], tuple[int, int]],
        open_requests: Callable[[], int],
        ready: Callable[[], bool],
        correction: Callable[[], float],
    ) -> None:
        """Read these whenever the metrics are scraped."""
        metrics, labels = self._metrics, self._labels
        metrics.queue_rows.labels(*labels).set_function(lambda: depth()[0])
        metrics.queue_tokens.labels(*labels).set_function(lambda: depth()[1])
        metrics.open_requests.labels(*labels).set_function(open_requests)
        metrics.ready.labels(*labels).set_function(ready)
        metrics.correction.labels(*labels).set_function(correction)


class SilentModelMetrics(ModelMetrics):
    """States what is served, and counts nothing."""

    def answered(self, seconds: float, stages: Mapping[str, float], truncated: int) -> None:
        """Not counted."""

    def failed(self, seconds: float, outcome: str) -> None:
        """Not counted."""

    def refused(self, reason: Refusal) -> None:
        """Not counted."""

    def ran(self, seconds: float, rows: int, elements: int, tokens: int) -> None:
        """Not counted."""


def _peak_resident_bytes() -> float:
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts kibibytes
