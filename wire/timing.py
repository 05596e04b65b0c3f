"""Time on the wire: a caller's patience on the way in, an answer's stage times on the way back."""

from __future__ import annotations

from collections.abc import Mapping

SERVER_TIMING = "server-timing"
"""An HTTP header and gRPC trailing metadata alike."""

TIMEOUT_HEADER = "x-request-timeout-ms"
"""Milliseconds that a client will wait, to HTTP what a deadline is to gRPC: after them the work is not done."""


def server_timing(stages: Mapping[str, float]) -> str:
    """``name;dur=milliseconds`` for each stage given in seconds (W3C Server Timing)."""
    return ", ".join([f"{name};dur={seconds * 1e3:.3f}" for name, seconds in stages.items()])
