"""A server in a process of its own, on free ports, ended whatever the test does."""

from __future__ import annotations

import argparse
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]


class Server:
    """A started server."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def wait_ready(self) -> dict[str, Any]:
        """The JSON line that it writes once it is ready.

        Raises:
            AssertionError: it ended before, with what it had said.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the server ended: {self.process.communicate()[1]}")
        ready: dict[str, Any] = json.loads(line)
        return ready

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self) -> tuple[int, str]:
        """Its exit status and what it wrote to standard error."""
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@contextmanager
def server_process(**options: Any) -> Iterator[Server]:
    """Start ``python -m support.server_process``; ``store`` and ``model``, or ``seconds`` for the tiny engine."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "support.server_process", *flags],
        cwd=TESTS,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Server(process)
    finally:
        process.kill()
        process.communicate()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> int:
    """Serve a store's model, or the tiny engine that sleeps so many seconds a call."""
    from nlpdeploy.bundle.errors import NlpdeployError
    from nlpdeploy.serve.app import run
    from nlpdeploy.serve.settings import Settings, WireLimits
    from support.engines import TinyEngine, tiny_predictor

    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--http-port", type=int, default=0)
    parser.add_argument("--grpc-port", type=int, default=0)
    parser.add_argument("--grace", type=float, default=30.0)
    parser.add_argument("--slow-client", type=float, default=60.0)
    parser.add_argument("--connections", type=int, default=4096)
    parser.add_argument("--max-message-mib", type=int, default=32)
    parser.add_argument("--raise-word")
    parser.add_argument("--metrics", default="on")
    parser.add_argument("--log-format", choices=("json", "text"))
    parser.add_argument("--log-requests", type=bool, default=False)
    given = parser.parse_args()
    settings = Settings(
        store=given.store or Path("nowhere"), models=tuple(given.model), threads=1, http_port=given.http_port,
        grpc_port=given.grpc_port, grace=given.grace, json_line=True,
        wire=WireLimits(
            message_bytes=given.max_message_mib << 20, slow_client=given.slow_client, connections=given.connections
        ),
        log_format=given.log_format, log_requests=given.log_requests, metrics=given.metrics == "on",
    )  # fmt: skip
    engine = TinyEngine(seconds=given.seconds, raise_word=given.raise_word)
    ready_made = [] if given.store else [tiny_predictor(given.folder, engine)]
    try:
        return run(settings, ready_made)
    except NlpdeployError as error:
        print(error.line(), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
