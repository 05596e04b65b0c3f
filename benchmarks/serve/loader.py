"""Orders slices of load from the load client's process."""

from __future__ import annotations

import contextlib
import json
import pickle
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..subject import HERE
from .requests import Ask

HOST = "127.0.0.1"
PATIENCE = 150.0
"""Seconds over a slice's own length after which the client is taken for hung."""


class LoadFailed(Exception):
    """A slice of load gave no result; the message says why."""


@dataclass(frozen=True)
class Target:
    """Whom to ask, and what.

    Attributes:
        transport: ``http`` or ``grpc``.
        port: on the loopback interface.
        requests: a file of requests.
    """

    transport: str
    port: int
    requests: Path

    def plain(self) -> dict[str, Any]:
        """As the load client's orders name it."""
        return {"transport": self.transport, "host": HOST, "port": self.port, "requests": str(self.requests)}


class Loader:
    """The handle of a child process that makes load; started when first needed, and again after it hung."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._child: subprocess.Popen[str] | None = None
        self._files = 0

    def write(self, asks: Sequence[Ask]) -> Path:
        """Put requests where the child finds them."""
        self._files += 1
        path = self._folder / f"requests-{self._files}.pickle"
        path.write_bytes(pickle.dumps(list(asks)))
        return path

    def closed(self, loads: Sequence[tuple[Target, int]], seconds: float) -> list[dict[str, Any]]:
        """Closed loops side by side, of so many clients each; see :func:`.load.closed`."""
        plain = [{**target.plain(), "clients": clients} for target, clients in loads]
        results: list[dict[str, Any]] = self._order({"kind": "closed", "loads": plain, "seconds": seconds}, seconds)
        return results

    def once(self, target: Target, clients: int) -> dict[str, Any]:
        """Each request once; see :func:`.load.once`."""
        result: dict[str, Any] = self._order({"kind": "once", **target.plain(), "clients": clients}, 0.0)
        return result

    def opened(self, target: Target, *, rate: float, seconds: float, seed: int, limit: float) -> dict[str, Any]:
        """An open loop; see :func:`.load.opened`."""
        order = {"kind": "open", **target.plain(), "rate": rate, "seconds": seconds, "seed": seed, "limit": limit}
        result: dict[str, Any] = self._order(order, seconds)
        return result

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def _order(self, order: dict[str, Any], seconds: float) -> Any:
        if self._child is None or self._child.poll() is not None:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.serve.load"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=HERE.parent,
                start_new_session=True,
            )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps(order) + "\n")
        self._child.stdin.flush()
        ready, _, _ = select.select([self._child.stdout], [], [], seconds + PATIENCE)
        line = self._child.stdout.readline() if ready else ""
        if not line:
            self.close()
            raise LoadFailed("the load client ended" if ready else f"no result within {seconds + PATIENCE:.0f} s")
        answer = json.loads(line)
        if "failure" in answer:
            raise LoadFailed(answer["failure"])
        return answer["result"]


@contextlib.contextmanager
def loading(folder: Path) -> Iterator[Loader]:
    """A loader whose child is ended on the way out."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("requests-*.pickle"):
        left.unlink()
    loader = Loader(folder)
    try:
        yield loader
    finally:
        loader.close()
