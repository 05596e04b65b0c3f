"""A real ``nlpdeploy serve`` in a child process, on ports that the system chooses."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nlpdeploy.bundle.errors import Unavailable

from .subject import WORK, Subject

GRACE_SECONDS = 15.0


@dataclass(frozen=True)
class ServerProcess:
    """A started server.

    Attributes:
        process: the child.
        host: where both fronts listen.
        grpc_port: of the gRPC front.
        http_port: of the HTTP front.
    """

    process: subprocess.Popen[bytes]
    host: str
    grpc_port: int
    http_port: int

    def terminate(self) -> None:
        """SIGTERM: finish what was accepted, and end."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit status; killed where it doesn't end in time. Not another SIGTERM: a second one means at once."""
        try:
            return self.process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextlib.contextmanager
def serving(subject: Subject, engine: str, *, module: Sequence[str] | None = None) -> Iterator[ServerProcess]:
    """Serve one engine of the subject; its log goes to ``benchmarks/.work/server.log``.

    Args:
        subject: a bundle.
        engine: id of its engine.
        module: a module that serves instead and says its ports alike, with its arguments.

    Raises:
        Unavailable: the server ended before it was ready; the message has its last line.
    """
    WORK.mkdir(parents=True, exist_ok=True)
    log = WORK / "server.log"
    command = [sys.executable, "-m", "nlpdeploy.cli", "serve", "--json", "--grpc-port", "0", "--http-port", "0"]
    command += ["--store", str(subject.store), "--model", f"{subject.name}:{subject.version}", "--engine", engine]
    if module is not None:
        command = [sys.executable, "-m", *module]
    with log.open("wb") as stream:
        # A session of its own: Ctrl-C reaches this process, which then ends the child in order.
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, start_new_session=True)
        server: ServerProcess | None = None
        try:
            server = _wait_ready(child, log)
            yield server
        finally:
            if server is not None and child.poll() is None:
                server.terminate()
                server.wait()
            child.kill()
            child.communicate()


def _wait_ready(child: subprocess.Popen[bytes], log: Path) -> ServerProcess:
    line = child.stdout.readline() if child.stdout else b""
    if not line:
        child.wait()
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""]
        raise Unavailable(f"the server ended with status {child.returncode}", found=said[-1], mend=f"see {log}")
    ready = json.loads(line)
    return ServerProcess(child, ready["host"], ready["grpc_port"], ready["http_port"])
