"""The Locust child processes of a run: started, asked, listened to, ended. Knows pipes and processes, not load."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from .orders import ENVIRONMENT, Assignment, line

_END_SECONDS = 5.0  # for Locust's own orderly end, before it is killed
_LOCUSTFILE = Path(__file__).with_name("locustfile.py")


@dataclass
class Child:
    """One Locust process."""

    name: str
    process: subprocess.Popen[bytes]
    orders: int
    events: int
    log: Path
    pending: bytes = b""
    lost: bool = False

    def tell(self, order: Mapping[str, Any]) -> None:
        """Send an order; a child that is gone shows by the end of its events."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.orders, line(order))

    def read_events(self) -> Iterator[dict[str, Any]]:
        """The whole lines that have come; an end of file marks the child as lost."""
        piece = os.read(self.events, 65536)
        self.lost = self.lost or not piece
        *lines, self.pending = (self.pending + piece).split(b"\n")
        yield from (json.loads(text) for text in lines)

    def obituary(self) -> str:
        """How it ended, with the last thing it said."""
        try:
            status = f"exit status {self.process.wait(_END_SECONDS)}"
        except subprocess.TimeoutExpired:
            status = "no end, but it closed its pipe"
        said = [text for text in self.log.read_text(errors="replace").splitlines() if text.strip()]
        return f"{status}; {' | '.join(said[-3:])}" if said else status


@dataclass
class Crew:
    """All of a run's processes; a context manager that leaves none behind.

    One worker is one headless Locust. Several are Locust workers with a master beside them, which sends nothing.
    """

    run_dir: Path
    data: Path
    golden: Path | None
    count: int
    workers: list[Child] = field(default_factory=list)
    master: Child | None = None

    def __enter__(self) -> Crew:
        try:
            self._start()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def tell(self, order: Mapping[str, Any]) -> None:
        """Give every worker an order."""
        for worker in self.workers:
            worker.tell(order)

    def events(self, seconds: float) -> Iterator[tuple[int, dict[str, Any]]]:
        """Events by worker index for so many seconds, and an ``{"event": "lost"}`` of each worker whose end shows."""
        until = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            for index, worker in enumerate(self.workers):
                if not worker.lost:
                    selector.register(worker.events, selectors.EVENT_READ, index)
            while selector.get_map() and (left := until - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    worker = self.workers[key.data]
                    for event in worker.read_events():
                        yield key.data, event
                    if worker.lost:
                        selector.unregister(worker.events)
                        yield key.data, {"event": "lost"}

    def end(self) -> None:
        """End all processes: Locust's own way first (its statistics are written then), then by force."""
        main = [self.master] if self.master else self.workers
        _end([child for child in main if child], self._children())
        for child in self._children():
            for descriptor in (child.orders, child.events):
                os.close(descriptor)
        self.workers, self.master = [], None

    def _children(self) -> list[Child]:
        return [*self.workers, *([self.master] if self.master else [])]

    def _start(self) -> None:
        folder = self.run_dir / "locust"
        folder.mkdir()
        statistics = ["--csv", str(folder / "locust"), "--exit-code-on-error", "0", "--only-summary"]
        alone = ["--headless", "--users", str(self.count), "--spawn-rate", str(self.count), *statistics]
        if self.count == 1:
            self.workers.append(self._spawn("worker-0", 0, alone))
            return
        port = _free_port()
        address = ["--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", str(port)]
        self.master = self._spawn("master", -1, [*address, "--expect-workers", str(self.count), *alone])
        for index in range(self.count):
            flags = ["--worker", "--master-host", "127.0.0.1", "--master-port", str(port)]
            self.workers.append(self._spawn(f"worker-{index}", index, flags))

    def _spawn(self, name: str, worker: int, flags: list[str]) -> Child:
        orders, our_orders = os.pipe()
        our_events, events = os.pipe()
        golden = None if self.golden is None else str(self.golden.resolve())
        assignment = Assignment(str(self.run_dir), str(self.data.resolve()), golden, worker, orders, events)
        # Locust reads LOCUST_… and files of the working folder; a run must not change with them.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
        environment[ENVIRONMENT] = assignment.to_environment()
        folder = self.run_dir / "locust"
        log = folder / f"{name}.log"
        command = [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--loglevel", "WARNING", *flags]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(orders, events),
                # Ctrl-C in the terminal is ours to handle: the children then settle what is under way.
                start_new_session=True,
            )
        os.close(orders)
        os.close(events)
        return Child(name, process, our_orders, our_events, log)


def _end(first: list[Child], all_of_them: list[Child]) -> None:
    for child in first:
        if child.process.poll() is None:
            child.process.send_signal(signal.SIGTERM)
    until = time.monotonic() + _END_SECONDS
    try:
        for child in all_of_them:
            child.process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass
    finally:  # a second Ctrl-C must not leave anybody behind either
        for child in all_of_them:
            if child.process.poll() is None:
                child.process.kill()
                child.process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
