"""The request log: one line a request, never a text, never a header's value.

Lines are written by a thread of their own, so that a slow reader of the log delays no answer: what it can't take is
left out and counted.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ParamSpec, TextIO, TypeVar

from ..bundle.errors import Cancelled
from ..wire.status import STATUS, failure_of
from .http_messages import Handler, Request, Response
from .job import Job
from .log import LogFormat, iso

P = ParamSpec("P")
R = TypeVar("R")
CANCELLED = STATUS[Cancelled]
LONGEST_ID = 64
"""Characters of a caller's request id that are logged."""
MOST_WAITING = 10_000
"""Request lines that wait for the log's reader; further ones are left out."""
MOST_AT_ONCE = 100
"""Lines of one write."""


@dataclass
class Entry:
    """What is known of one request by its end.

    Attributes:
        transport: ``http`` or ``grpc``.
        started: monotonic seconds.
        model: a model that is served here; empty where it is not, since then the name is the caller's words.
        version: of the model.
        id: as the caller chose it.
        job: once there is one.
    """

    transport: str
    started: float
    model: str = ""
    version: str = ""
    id: str = ""
    job: Job | None = None


_current: ContextVar[Entry | None] = ContextVar("request log entry", default=None)


def note_model(name: str, version: str, request_id: str = "") -> None:
    """The request at hand is for this model, which is served."""
    if (entry := _current.get()) is not None:
        entry.model, entry.version, entry.id = name, version, request_id


def note_job(job: Job) -> None:
    """The request at hand has become this job."""
    if (entry := _current.get()) is not None:
        entry.job = job


class RequestLog:
    """One line a request: time, transport, model, version, id, status, rows, tokens, milliseconds of the stages.

    The status is the transport's number: HTTP's, or gRPC's with 0 for OK.

    Args:
        stream: where lines go.
        form: their form.
    """

    def __init__(self, stream: TextIO, form: LogFormat) -> None:
        self._stream, self._form = stream, form
        self._waiting: deque[tuple[float, Entry, int, float]] = deque()
        self._some = threading.Event()
        self._closed = False
        self.left_out = 0
        self._thread = threading.Thread(target=self._main, name="request log", daemon=True)
        self._thread.start()

    def http(self, handle: Handler) -> Handler:
        """The handler, with a line at each request's end; probes and scrapes that succeed have none."""

        async def logged(request: Request) -> Response:
            entry, status = _begin("http"), CANCELLED.http
            try:
                response = await handle(request)
                status = response.status
                return response
            except Exception as error:
                status = failure_of(error).status.http
                raise
            finally:
                if request.method == "POST" or status >= HTTPStatus.BAD_REQUEST:
                    self._put(entry, status)

        return logged

    def grpc(self, call: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        """The call, with a line at its end."""

        async def logged(*args: P.args, **kwargs: P.kwargs) -> R:
            entry, status = _begin("grpc"), int(CANCELLED.grpc)
            try:
                answer = await call(*args, **kwargs)
                status = 0
                return answer
            except Exception as error:
                status = int(failure_of(error).status.grpc)
                raise
            finally:
                self._put(entry, status)

        return logged

    def refused_by_http(self, status: int) -> None:
        """What came over HTTP was refused before it was a request."""
        self._put(Entry("http", time.monotonic()), status)

    def turned_away(self, transport: str, model: str, version: str, status: int) -> None:
        """A request for a model that is served was refused unread: nothing is known of its rows."""
        self._put(Entry(transport, time.monotonic(), model, version), status)

    def close(self, timeout: float = 1.0) -> None:
        """Write what waits."""
        self._closed = True
        self._some.set()
        self._thread.join(timeout)

    def _put(self, entry: Entry, status: int) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self.left_out += 1
            return
        self._waiting.append((time.time(), entry, status, time.monotonic() - entry.started))
        self._some.set()

    def _main(self) -> None:
        while not self._closed or self._waiting:
            self._some.wait()
            self._some.clear()
            while self._waiting:
                lines = [self._line(*self._waiting.popleft()) for _ in range(min(len(self._waiting), MOST_AT_ONCE))]
                try:
                    self._stream.write("\n".join(lines) + "\n")
                    self._stream.flush()
                except (OSError, ValueError):  # nobody reads, or the stream is closed: serving goes on
                    self.left_out += len(lines)

    def _line(self, now: float, entry: Entry, status: int, seconds: float) -> str:
        facts = _facts(entry, status, seconds)
        if self._form == "json":
            return json.dumps({"time": iso(now), "level": "info", "event": "request", **facts}, ensure_ascii=False)
        return f"{iso(now)} REQUEST " + " ".join(f"{name}={value}" for name, value in facts.items())


def _begin(transport: str) -> Entry:
    entry = Entry(transport, time.monotonic())
    _current.set(entry)  # each call is a task of its own, or sets it anew
    return entry


def _facts(entry: Entry, status: int, seconds: float) -> dict[str, Any]:
    facts: dict[str, Any] = {"transport": entry.transport, "status": status}
    if entry.model:
        facts |= {"model": entry.model, "version": entry.version}
    if entry.id:
        facts["id"] = "".join(c if c.isprintable() else "?" for c in entry.id[:LONGEST_ID])
    facts["ms"] = _milliseconds(seconds)
    if (job := entry.job) is not None:
        facts |= {"rows": len(job.question), "tokens": sum(map(len, job.rows))}
        if job.finished_at:
            stages = job.stages(entry.started + seconds)
            facts |= {f"{name}_ms": _milliseconds(spent) for name, spent in stages.items()}
    return facts


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
