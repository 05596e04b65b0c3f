"""The handle of the bare engine's process."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..subject import HERE
from .loader import PATIENCE, LoadFailed
from .plans import Served
from .processes import ProcessTree
from .servers import START_SECONDS, StartFailed, last_line


class BareProcess:
    """Orders work of the bare engine.

    Attributes:
        tree: its process.
        start_seconds: from the start of the process to the engine's being ready.
        setups: by clients, how the engine was run, in words.
    """

    def __init__(self, child: subprocess.Popen[str], start_seconds: float) -> None:
        self._child = child
        self.tree = ProcessTree(child.pid)
        self.start_seconds = start_seconds
        self.setups: dict[int, str] = {}

    def closed(self, clients: int, seconds: float) -> dict[str, Any]:
        """See :meth:`.bare.Bare.closed`."""
        result: dict[str, Any] = self._order({"kind": "closed", "clients": clients, "seconds": seconds})
        self.setups[clients] = result["setup"]
        return result

    def right(self) -> int:
        """How many of the texts get their label."""
        return int(self._order({"kind": "right"}))

    def _order(self, order: dict[str, Any]) -> Any:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(order) + "\n")
            self._child.stdin.flush()
        except OSError:
            raise LoadFailed("the bare engine's process ended") from None
        return json.loads(_line(self._child, PATIENCE))


@contextlib.contextmanager
def bare_process(model: Served, texts: Sequence[str], labels: Sequence[str], folder: Path) -> Iterator[BareProcess]:
    """Start it.

    Raises:
        StartFailed: it ended before it was ready.
    """
    folder.mkdir(parents=True, exist_ok=True)
    inputs, log = folder / f"bare-{model.name}.json", folder / f"bare-{model.name}.log"
    inputs.write_text(json.dumps({"texts": list(texts), "labels": list(labels)}), encoding="utf-8")
    begun = time.perf_counter()
    with log.open("wb") as stream:
        child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serve.bare", str(model.bundle), model.engine, str(inputs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            cwd=HERE.parent,
            start_new_session=True,
        )
        try:
            try:
                _line(child, START_SECONDS)
            except LoadFailed:
                raise StartFailed(f"the bare engine didn't start: {last_line(log)}") from None
            yield BareProcess(child, time.perf_counter() - begun)
        finally:
            child.kill()
            child.communicate()


def _line(child: subprocess.Popen[str], seconds: float) -> str:
    assert child.stdout is not None
    ready, _, _ = select.select([child.stdout], [], [], seconds)
    line = child.stdout.readline() if ready else ""
    if not line:
        raise LoadFailed("the bare engine's process ended" if ready else f"no result within {seconds:.0f} s")
    return line
