"""A process with all its children: memory, processor time, libraries, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

KIBIBYTE = 1024


def parse_pss(smaps_rollup: str) -> int:
    """Bytes of the proportional set size in the text of ``/proc/PID/smaps_rollup``.

    Raises:
        ValueError: no line ``Pss:`` in kB.
    """
    for line in smaps_rollup.splitlines():
        name, _, rest = line.partition(":")
        if name == "Pss":
            number, unit = rest.split()
            if unit != "kB":
                break
            return int(number) * KIBIBYTE
    raise ValueError("smaps_rollup has no line `Pss: … kB`")


class ProcessTree:
    """A process and its descendants, as they are at the time of each call.

    Args:
        pid: of the root, which leads a session of its own.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def members(self) -> list[psutil.Process]:
        """The root and all its descendants that are alive."""
        try:
            root = psutil.Process(self.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_seconds(self) -> float:
        """Processor time, user and system, of all that are alive and of those children of theirs that have ended."""
        total = 0.0
        for member in self.members():
            with contextlib.suppress(psutil.Error):
                total += sum(member.cpu_times()[:4])  # user, system, and both of children that were waited for
        return total

    def pss_bytes(self) -> int | None:
        """Proportional set size of all; None where the kernel doesn't tell."""
        total = 0
        try:
            for member in self.members():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    total += parse_pss(Path(f"/proc/{member.pid}/smaps_rollup").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return total or None

    def has_mapped(self, library: str) -> bool | None:
        """Whether a file of that name is mapped by any of them; None where the kernel doesn't tell."""
        try:
            maps = [Path(f"/proc/{member.pid}/maps").read_text(encoding="utf-8") for member in self.members()]
        except OSError:
            return None
        return any(library in text for text in maps) if maps else None

    def signal(self, number: int) -> None:
        """Send a signal to each of them."""
        for member in self.members():
            with contextlib.suppress(psutil.Error):
                member.send_signal(number)

    def stop(self, reap: Callable[[], object], grace: float) -> None:
        """SIGTERM to the root, and after so many seconds SIGKILL to whatever is left of the tree and of its group.

        Args:
            reap: called again and again; collects the root's exit status, so that it doesn't linger as a zombie.
            grace: seconds.
        """
        members = self.members()
        for number in (signal.SIGCONT, signal.SIGTERM):
            for member in members if number == signal.SIGCONT else members[:1]:
                with contextlib.suppress(psutil.Error):
                    member.send_signal(number)
        end = time.monotonic() + grace
        while time.monotonic() < end and any(_alive(member) for member in members):
            reap()
            time.sleep(0.05)
        for member in [*members, *self.members()]:
            with contextlib.suppress(psutil.Error):
                member.kill()
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
