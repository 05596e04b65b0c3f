"""What a server counts of its own work on its metrics page, for Prometheus: queue and engine calls, block by block.

Told by the server and not checked, so no verdict uses it; it says why the latencies are what they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

from .plan import Side
from .usage import ports_beside

_SECONDS = 0.5  # for an answer: it is asked between blocks, never while one runs
_MOST_BYTES = 1 << 22
_LINE = re.compile(r"nlpdeploy_(\w+)\{([^}]*)\} (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_COUNTED = (
    "batch_rows_sum", "batch_rows_count", "batch_seconds_sum", "batch_tokens_sum", "tokens_total", "refusals_total",
)  # fmt: skip
_OF_QUEUE = ("stage_seconds_sum", "stage_seconds_count")

Counts = Counter[str]


@dataclass
class ServerMetrics:
    """Counts over the blocks of each side; a server without such a page, or with one out of reach, is left out.

    Attributes:
        urls: the servers'.
        model: whose counts.
        spent: by side, what was added to each counter while its blocks ran.
    """

    urls: Mapping[Side, str]
    model: str
    spent: dict[Side, Counts] = field(default_factory=dict)
    _pages: dict[Side, tuple[str, int] | None] = field(default_factory=dict)
    _before: Counts | None = None

    def start(self, side: Side) -> None:
        """A block begins."""
        if side not in self._pages:
            places = pages_of(self.urls[side])
            self._pages[side] = next((place for place in places if self._read(place)), None)
        self._before = self._read(self._pages[side])

    def stop(self, side: Side) -> None:
        """It has ended."""
        now = self._read(self._pages.get(side))
        if now is not None and self._before is not None:
            self.spent.setdefault(side, Counter()).update({name: now[name] - self._before[name] for name in now})

    def to_json(self) -> dict[str, Any]:
        """By side: see :func:`figures`."""
        return {side: figures(spent) for side, spent in self.spent.items()}

    def _read(self, place: tuple[str, int] | None) -> Counts | None:
        """The model's counters now; None where they can't be had."""
        if place is None:
            return None
        connection = HTTPConnection(*place, timeout=_SECONDS)
        try:
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            text = answer.read(_MOST_BYTES).decode(errors="replace") if answer.status == 200 else ""
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()
        return read_counters(text.splitlines(), self.model) or None


def pages_of(url: str) -> list[tuple[str, int]]:
    """Where a server's metrics may stand: beside its HTTP; of another transport, at ports of the same processes."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 0
    return [(host, port)] if parts.scheme == "http" else [(host, beside) for beside in ports_beside(url)]


def read_counters(lines: Iterable[str], model: str) -> Counts:
    """One model's counters on a page, over its versions and engines; ``queue_sum`` and ``queue_count`` are of the time
    that answered requests waited."""
    found: Counts = Counter()
    for line in lines:
        if (match := _LINE.fullmatch(line)) is None:
            continue
        name, labels, value = match[1], dict(_LABEL.findall(match[2])), float(match[3])
        if labels.get("model") != model:
            continue
        if name in _COUNTED:
            found[name] += value  # type: ignore[assignment]  # counters of seconds are no whole numbers
        elif name in _OF_QUEUE and labels.get("stage") == "queue":
            found[name.replace("stage_seconds", "queue")] += value  # type: ignore[assignment]
    return found


def figures(spent: Counts) -> dict[str, float | None]:
    """``engine_calls``, ``rows_per_call``, ``call_ms``, ``padding`` (share of what was computed), ``queue_ms`` (mean of
    answered requests), ``refused``; None where nothing was counted."""

    def ratio(what: str, of: str, scale: float = 1.0) -> float | None:
        return scale * spent[what] / spent[of] if spent[of] else None

    kept = ratio("tokens_total", "batch_tokens_sum")
    return {
        "engine_calls": float(spent["batch_rows_count"]),
        "rows_per_call": ratio("batch_rows_sum", "batch_rows_count"),
        "call_ms": ratio("batch_seconds_sum", "batch_rows_count", 1e3),
        "padding": None if kept is None else max(0.0, 1.0 - kept),
        "queue_ms": ratio("queue_sum", "queue_count", 1e3),
        "refused": float(spent["refusals_total"]),
    }
