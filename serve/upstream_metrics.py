"""What a server counts of the instances that answer for its models elsewhere."""

from __future__ import annotations

import enum

from prometheus_client import CollectorRegistry, Counter, Gauge

from .upstream_instance import Instance

INSTANCE = ("model", "instance")


class Fate(enum.StrEnum):
    """What became of a request to an instance."""

    ANSWERED = "answered"
    NO_ROOM = "no_room"
    REFUSED = "refused"
    FAILED = "failed"
    NOT_SENT = "not_sent"
    BROKEN = "broken"
    LATE = "late"


class UpstreamMetrics:
    """The gauges and counters of all instances of one server.

    Args:
        registry: of the server's metrics.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._up = Gauge("nlpdeploy_upstream_up", "1 while the instance is asked", INSTANCE, registry=registry)
        self._requests = Gauge(
            "nlpdeploy_upstream_open_requests", "Requests under way at the instance", INSTANCE, registry=registry
        )
        self._fates = Counter(
            "nlpdeploy_upstream_requests", "Requests to the instance, by what became of them", (*INSTANCE, "fate"),
            registry=registry,
        )  # fmt: skip
        self._retries = Counter(
            "nlpdeploy_upstream_retries", "Requests that another instance got after this one had refused them unrun",
            INSTANCE, registry=registry,
        )  # fmt: skip

    def watch(self, instance: Instance) -> None:
        """Read an instance whenever the metrics are scraped."""
        labels = _labels(instance)
        self._up.labels(*labels).set_function(lambda: float(instance.up))
        self._requests.labels(*labels).set_function(lambda: instance.requests)
        self._retries.labels(*labels)
        for fate in Fate:
            self._fates.labels(*labels, fate.value)

    def ended(self, instance: Instance, fate: Fate) -> None:
        """A request to it has ended."""
        self._fates.labels(*_labels(instance), fate.value).inc()

    def retried(self, instance: Instance) -> None:
        """What it refused goes to another one."""
        self._retries.labels(*_labels(instance)).inc()


def _labels(instance: Instance) -> tuple[str, str]:
    return instance.upstream.name, str(instance)
