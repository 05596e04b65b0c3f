"""How to serve: addresses, models, limits. Checked here, before anything is loaded or listens."""

from __future__ import annotations

import dataclasses
import logging
import math
import resource
from dataclasses import dataclass, field
from pathlib import Path

from ..bundle.errors import InvalidInput
from ..runtime.cores import usable_cores
from .grpc_limits import GrpcLimits
from .http_limits import HttpLimits
from .log import LogFormat
from .served_model import Capacity
from .upstream_spec import Upstream

log = logging.getLogger(__name__)

KIBIBYTE, MEBIBYTE = 1024, 1024 * 1024
MOST_MESSAGE_BYTES = 2047 * MEBIBYTE
"""gRPC counts a message's bytes in 31 bits."""

FRONTS = ("grpc", "http")
OWN_FILES = 128
"""File descriptors for all that is no connection: libraries, models, the log, listening sockets."""


@dataclass(frozen=True)
class WireLimits:
    """What each front takes from clients that it doesn't know.

    Attributes:
        message_bytes: largest request and answer.
        header_bytes: largest request line with headers, or metadata.
        connections: open ones of each front.
        slow_client: seconds a client may take to deliver a request, or to take an answer.
        idle: seconds a connection may stay without a request.
        streams: gRPC calls under way on one connection; more of them wait at the client.
    """

    message_bytes: int = 32 * MEBIBYTE
    header_bytes: int = 64 * KIBIBYTE
    connections: int = 4096
    slow_client: float = 60.0
    idle: float = 300.0
    streams: int = 1024

    def http(self) -> HttpLimits:
        """The same for the HTTP front."""
        return HttpLimits(
            body=self.message_bytes,
            head=self.header_bytes,
            connections=self.connections,
            idle=self.idle,
            reading=self.slow_client,
            writing=self.slow_client,
        )

    def grpc(self) -> GrpcLimits:
        """The same for the gRPC front.

        HTTP/2 has no time for one request; a peer that answers neither the handshake nor pings is cut instead.
        """
        return GrpcLimits(
            message_bytes=self.message_bytes,
            header_bytes=self.header_bytes,
            connections=self.connections,
            streams=self.streams,
            slow_client=self.slow_client,
            idle=self.idle,
        )


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        store: the store's folder.
        models: ``name`` or ``name:version`` each; empty for all of the store, or for none where there are upstreams.
        upstreams: models that TorchServe instances answer for.
        upstream_wait: seconds that the first instance of each may take to answer.
        upstream_requests: most under way at one instance; by default as its archive says.
        engine: id of an engine; by default each bundle's.
        threads: intra-op threads of an engine; by default what export found fastest for a lone text. The cores that it
            leaves are filled with more of it.
        host: address of both fronts.
        grpc_port: 0 for a free one, which the start-up line names.
        http_port: as ``grpc_port``.
        wire: limits of both fronts.
        capacity: limits of the queue and of the batches.
        default_timeout: seconds for a request that names no deadline.
        grace: seconds that accepted work may take after the first signal.
        log_format: ``json`` or ``text``; by default text on a terminal, JSON lines elsewhere.
        log_requests: write one line a request, without its texts.
        metrics: count requests and engine calls.
        json_line: write one JSON object to standard output once ready: ports, models, engines, digests.
    """

    store: Path = Path("model_store")
    models: tuple[str, ...] = ()
    upstreams: tuple[Upstream, ...] = ()
    upstream_wait: float = 60.0
    upstream_requests: int | None = None
    engine: str | None = None
    threads: int | None = None
    host: str = "127.0.0.1"
    grpc_port: int = 8001
    http_port: int = 8000
    wire: WireLimits = field(default_factory=WireLimits)
    capacity: Capacity = field(default_factory=Capacity)
    default_timeout: float = 60.0
    grace: float = 10.0
    log_format: LogFormat | None = None
    log_requests: bool = False
    metrics: bool = True
    json_line: bool = False

    def limits(self) -> dict[str, float]:
        """Every limit by name, its unit at the end: bytes, seconds, or a count."""
        wire, queue = self.wire, self.capacity.limits
        return {
            "message_bytes": wire.message_bytes,
            "header_bytes": wire.header_bytes,
            "connections": wire.connections,
            "streams": wire.streams,
            "slow_client_seconds": wire.slow_client,
            "idle_seconds": wire.idle,
            "queue_rows": queue.rows,
            "queue_tokens": queue.tokens,
            "default_timeout_seconds": self.default_timeout,
            "grace_seconds": self.grace,
        }


def check(settings: Settings) -> None:
    """Refuse what is out of range.

    Raises:
        InvalidInput: the option, the value found, and the range.
    """
    wire, limits = settings.wire, settings.capacity.limits
    cores = usable_cores()
    if settings.threads is not None and not 1 <= settings.threads <= cores:
        raise InvalidInput("--threads", found=settings.threads, wanted=f"1 to the {cores} usable cores")
    _within("--max-message-mib", wire.message_bytes / MEBIBYTE, 1, MOST_MESSAGE_BYTES / MEBIBYTE)
    _within("--max-header-kib", wire.header_bytes / KIBIBYTE, 1, 1024)
    _within("--max-connections", wire.connections, 1, 1_000_000)
    _within("--max-queue-rows", limits.rows, 1, 10_000_000)
    _within("--max-queue-tokens", limits.tokens, 1, 1_000_000_000)
    _within("--slow-client", wire.slow_client, 0.01, 86_400, " s")
    _within("--default-timeout", settings.default_timeout, 0.001, 86_400, " s")
    _within("--grace", settings.grace, 0, 86_400, " s")
    _within("--upstream-wait", settings.upstream_wait, 1, 86_400, " s")
    if settings.upstream_requests is not None:
        _within("--upstream-requests", settings.upstream_requests, 1, 100_000)


def _within(option: str, value: float, low: float, high: float, unit: str = "") -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidInput(option, found=f"{value:.10g}{unit}", wanted=f"{low:.10g} to {high:.10g}{unit}")


def fitted(wire: WireLimits) -> WireLimits:
    """The limits with no more connections than this process may have open files, after raising that to the hard limit.

    A server that runs out of file descriptors can take nobody, live clients included; one that stops before can.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(FRONTS) * wire.connections + OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wire
    connections = max((soft - OWN_FILES) // len(FRONTS), 1)
    log.warning("at most %d connections instead of %d: only %d files may be open", connections, wire.connections, soft)
    return dataclasses.replace(wire, connections=connections)
