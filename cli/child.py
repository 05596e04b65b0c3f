"""A server in a child process, for the demo: started, waited for, ended whatever happens."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..bundle.errors import Unavailable

GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class ChildServer:
    """Where a child serves.

    Attributes:
        grpc: ``127.0.0.1:port``.
        http: ``127.0.0.1:port``.
    """

    grpc: str
    http: str


@contextlib.contextmanager
def serving(arguments: Sequence[str], log: Path) -> Iterator[ChildServer]:
    """``nlpdeploy serve`` on ports that the system chooses, ended on the way out.

    Args:
        arguments: the rest of the command line.
        log: file for what the server says.

    Raises:
        Unavailable: the server ended before it was ready; the message has its last line.
    """
    command = [
        sys.executable,
        "-m",
        "nlpdeploy.cli",
        "serve",
        "--grpc-port",
        "0",
        "--http-port",
        "0",
        "--json",
        *arguments,
    ]
    with log.open("wb") as stream:
        # A session of its own: Ctrl-C reaches this process, which then ends the child in order.
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, start_new_session=True)
        try:
            yield _wait_ready(child, log)
        finally:
            _end(child)


def _wait_ready(child: subprocess.Popen[bytes], log: Path) -> ChildServer:
    output: IO[bytes] | None = child.stdout
    line = output.readline() if output else b""
    if not line:
        child.wait()
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""]
        raise Unavailable(f"the server ended with status {child.returncode}", found=lines[-1], mend=f"see {log}")
    ready = json.loads(line)
    return ChildServer(grpc=f"127.0.0.1:{ready['grpc_port']}", http=f"127.0.0.1:{ready['http_port']}")


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    if child.stdout:
        child.stdout.close()
