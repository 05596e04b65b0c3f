"""The log of a TorchServe, read as it comes, and the line that says why a model can't start."""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
from collections.abc import Callable

from .handler import FAILED_MARK

_REASONS = (
    re.compile(re.escape(FAILED_MARK) + r"(?P<reason>.*)"),
    re.compile(r"Failed to load model: (?P<reason>.*)"),
)
_DIED = re.compile(r"Backend worker process died\.")
_EXCEPTION = re.compile(r" - (?P<reason>[A-Za-z_][\w.]*(?:Error|Exception)\b.*)")


class ServerLog:
    """Reads the log to its end in a thread of its own.

    Args:
        process: whose output is the log.
        say: takes each line.

    Attributes:
        failure: why a model can't start, once it is known.
        last: the last line.
    """

    def __init__(self, process: subprocess.Popen[bytes], say: Callable[[str], None]) -> None:
        self.failure: str | None = None
        self.last = ""
        self._process, self._say = process, say
        self._died = False
        self._thread = threading.Thread(target=self._read, name="torchserve-log", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def finish(self) -> None:
        """Wait until all is read; the process has ended."""
        if self._thread.is_alive():
            self._thread.join(5.0)
        if self._process.stdout and not self._thread.is_alive():
            self._process.stdout.close()

    def _read(self) -> None:
        for raw in self._process.stdout or ():
            line = raw.decode("utf-8", "replace").rstrip()
            if line:
                self.last = line
                self._judge(line)
                with contextlib.suppress(OSError):  # nobody listens any more; unread, the JVM would stand still
                    self._say(line)

    def _judge(self, line: str) -> None:
        if self.failure is not None:
            return
        for pattern in _REASONS:
            match = pattern.search(line)
            if match:
                self.failure = match["reason"]
                return
        # A handler of another maker: its exception follows in the worker's traceback.
        if _DIED.search(line):
            self._died = True
        elif self._died:
            match = _EXCEPTION.search(line)
            if match:
                self.failure = match["reason"]
