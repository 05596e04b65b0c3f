"""The console script as a person runs it: in a child process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "nlpdeploy.cli"]


def nlpdeploy(*arguments: object, timeout: float = 240, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run to the end; output as text."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **options)


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start in a process group of its own, so that all it leaves behind can be counted."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def alive(pids: set[int]) -> set[int]:
    """Those of the processes that still run; zombies don't."""
    return pids & set(_parents())


def descendants(pid: int) -> set[int]:
    """A process's children and theirs, whatever group or session they are in."""
    parents = _parents()
    found, queue = set(), {pid}
    while queue:
        queue = {child for child, parent in parents.items() if parent in queue}
        found |= queue
    return found


def _parents() -> dict[int, int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                parents[int(stat.parent.name)] = int(fields[1])
    return parents


@contextlib.contextmanager
def server(*arguments: object, cwd: Path | None = None) -> Iterator[dict[str, Any]]:
    """``nlpdeploy serve`` on free ports until the block ends; yields its ready line."""
    process = start("serve", "--grpc-port", 0, "--http-port", 0, "--json", *arguments, cwd=cwd)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise AssertionError(f"the server ended: {process.communicate()[1]}")
        yield json.loads(line)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise


def one_line(text: str | Sequence[str]) -> str:
    """The text, which must be a single line."""
    lines = [line for line in str(text).splitlines() if line.strip()]
    assert len(lines) == 1, text
    return lines[0]
