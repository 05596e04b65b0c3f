"""Stage times as the value of ``server-timing``, an HTTP header and gRPC trailing metadata alike."""

from __future__ import annotations

from collections.abc import Mapping

SERVER_TIMING = "server-timing"


def server_timing(stages: Mapping[str, float]) -> str:
    """``name;dur=milliseconds`` for each stage given in seconds (W3C Server Timing)."""
    return ", ".join([f"{name};dur={seconds * 1e3:.3f}" for name, seconds in stages.items()])
