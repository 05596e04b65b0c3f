"""Servers under test as child processes: started, timed until the first right answer, paused and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..http_clients import BlockingHttp
from .loader import HOST
from .processes import ProcessTree
from .requests import Form, ask

START_SECONDS = 150.0
STOP_SECONDS = 8.0
IDLE_SHARE = 0.02
"""Share of a core above which an idle server is paused while others are measured."""

_POLL_SECONDS = 0.01


class StartFailed(Exception):
    """A server did not come up; the message says why, with the last line of its log."""


@dataclass(frozen=True)
class Way:
    """One way to ask a server: a row of the tables.

    Attributes:
        name: the row's.
        form: how it is asked.
        port: on the loopback interface.
    """

    name: str
    form: Form
    port: int


@dataclass(frozen=True)
class Plan:
    """What to start.

    Attributes:
        name: of the server.
        command: of its process.
        ways: how to ask it; the first one over HTTP tells whether it is up.
        models: names of its models; the first one tells whether it is up.
        environment: variables set or, where None, unset.
        folder: where it runs.
    """

    name: str
    command: Sequence[str]
    ways: tuple[Way, ...]
    models: tuple[str, ...]
    environment: Mapping[str, str | None] = field(default_factory=dict)
    folder: Path | None = None


class Server:
    """A server that answers.

    Args:
        plan: what was started.
        child: its process.
        start_seconds: from the start of the process to the first answer.
    """

    def __init__(self, plan: Plan, child: subprocess.Popen[bytes], start_seconds: float) -> None:
        self.name = plan.name
        self.ways = plan.ways
        self.models = plan.models
        self.start_seconds = start_seconds
        self.tree = ProcessTree(child.pid)
        self.idle_share = 0.0
        self._child = child
        self._paused = False

    def rest(self, seconds: float = 1.0) -> None:
        """See what it takes of a core while nobody asks; where that is much, pause it until it is measured."""
        before = self.tree.cpu_seconds()
        time.sleep(seconds)
        self.idle_share = (self.tree.cpu_seconds() - before) / seconds
        self.pause()

    @property
    def restless(self) -> bool:
        """Whether it takes so much while idle that it would disturb the others."""
        return self.idle_share > IDLE_SHARE

    def pause(self) -> None:
        """Stop its processes where they stand, if it is restless."""
        if self.restless and not self._paused:
            self.tree.signal(signal.SIGSTOP)
            self._paused = True

    @contextlib.contextmanager
    def awake(self) -> Iterator[Server]:
        """At work, for the time of a measurement."""
        if self._paused:
            self.tree.signal(signal.SIGCONT)
            self._paused = False
            time.sleep(0.2)
        try:
            yield self
        finally:
            self.pause()

    @property
    def alive(self) -> bool:
        """Whether its first process runs."""
        return self._child.poll() is None


@contextlib.contextmanager
def started(plan: Plan, log_folder: Path, text: str) -> Iterator[Server]:
    """Start a server and wait for its first answer; its output goes to ``log_folder``.

    Raises:
        StartFailed: it ended, or gave no answer in time.
    """
    log_folder.mkdir(parents=True, exist_ok=True)
    log = log_folder / f"{plan.name.replace(' ', '-').replace(',', '')}.log"
    environment = {**os.environ, **{name: value for name, value in plan.environment.items() if value is not None}}
    for name in (name for name, value in plan.environment.items() if value is None):
        environment.pop(name, None)
    with log.open("wb") as stream:
        begun = time.perf_counter()
        try:
            # A session of its own: Ctrl-C reaches this process, which then ends the child in order.
            child = subprocess.Popen(
                plan.command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
                cwd=plan.folder,
            )
        except OSError as error:
            raise StartFailed(str(error)) from None
        try:
            _wait_answer(plan, child, text, log)
            yield Server(plan, child, time.perf_counter() - begun)
        finally:
            ProcessTree(child.pid).stop(child.poll, STOP_SECONDS)
            child.wait()


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def last_line(log: Path) -> str:
    """The last line of a log that has words in it."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip()[:300] for line in reversed(lines) if any(map(str.isalpha, line))), "")


def _wait_answer(plan: Plan, child: subprocess.Popen[bytes], text: str, log: Path) -> None:
    way = next(way for way in plan.ways if way.form.transport == "http")
    messages = [ask(way.form, model, [text]).message for model in plan.models]
    end = time.monotonic() + START_SECONDS
    while messages:
        if child.poll() is not None:
            raise StartFailed(f"ended with status {child.returncode}: {last_line(log)}")
        if time.monotonic() > end:
            raise StartFailed(f"no answer within {START_SECONDS:.0f} s; log: {last_line(log)}")
        if _answers(way.port, messages[0]):
            messages.pop(0)
        else:
            time.sleep(_POLL_SECONDS)


def _answers(port: int, message: bytes) -> bool:
    try:
        connection = BlockingHttp(HOST, port)
    except OSError:
        return False
    try:
        return connection.ask(message).status == 200
    except (OSError, ValueError):
        return False  # not up yet: it closed the connection, or it answered something else
    finally:
        connection.close()
