"""What a server on this very machine spends: processor time and memory of the processes that listen at an address."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from .plan import Side


@dataclass
class ServerUsage:
    """Counts over the blocks of each side; a server that is elsewhere, or not ours to look at, is left out.

    Attributes:
        urls: the servers'.
        cpu_s: processor seconds by side, over its blocks.
        rss_mib: resident memory by side after its latest block.
    """

    urls: Mapping[Side, str]
    cpu_s: dict[Side, float] = field(default_factory=dict)
    rss_mib: dict[Side, float] = field(default_factory=dict)
    _before: dict[int, float] = field(default_factory=dict)

    def start(self, side: Side) -> None:
        """A block begins."""
        self._before = {pid: cpu for pid, (cpu, _) in _processes(self.urls[side]).items()}

    def stop(self, side: Side) -> None:
        """It has ended; a process that came meanwhile counts whole."""
        now = _processes(self.urls[side])
        if not self._before or not now:
            return
        spent = sum(cpu - self._before.get(pid, 0.0) for pid, (cpu, _) in now.items())
        self.cpu_s[side] = self.cpu_s.get(side, 0.0) + spent
        self.rss_mib[side] = sum(rss for _, rss in now.values()) / 2**20

    def to_json(self) -> dict[str, Any]:
        """By side: ``cpu_s`` and ``rss_mib``."""
        return {side: {"cpu_s": self.cpu_s[side], "rss_mib": self.rss_mib[side]} for side in self.cpu_s}


def ports_beside(url: str) -> list[int]:
    """Further ports at which whoever listens at an address of this machine, or a descendant of it, listens."""
    psutil = _psutil()
    try:
        own = {one.pid for process in _listeners(psutil, url) for one in (process, *process.children(recursive=True))}
        return sorted({port for pid, port in _listening(psutil) if pid in own} - {urlsplit(url).port})
    except (psutil.Error, OSError):
        return []


def _processes(url: str) -> dict[int, tuple[float, float]]:
    """Processor seconds and resident bytes of whoever listens at an address of this machine, and its descendants."""
    psutil = _psutil()
    found: dict[int, tuple[float, float]] = {}
    try:
        for process in _listeners(psutil, url):
            for one in (process, *process.children(recursive=True)):
                times = one.cpu_times()
                found[one.pid] = (times.user + times.system, float(one.memory_info().rss))
    except (psutil.Error, OSError):
        return {}
    return found


def _psutil() -> Any:
    import psutil  # type: ignore[import-untyped]  # comes with Locust

    return psutil


def _listeners(psutil: Any, url: str) -> list[Any]:
    parts = urlsplit(url)
    own = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
    there = {str(entry[4][0]) for entry in socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)}
    if not there <= own:
        return []
    return [psutil.Process(pid) for pid in {pid for pid, port in _listening(psutil) if port == parts.port}]


def _listening(psutil: Any) -> list[tuple[int, int]]:
    """(process, TCP port) of this machine."""
    return [
        (connection.pid, connection.laddr.port)
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.pid
    ]
