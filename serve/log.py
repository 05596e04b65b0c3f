"""The log: lines for people or JSON lines for machines, on standard error.

No caller's text gets into it: of an exception it keeps types and stacks, not the words, which may quote one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, TextIO

LogFormat = Literal["json", "text"]
ROOM = "nlpdeploy"

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def format_for(stream: TextIO) -> LogFormat:
    """Text for a terminal, JSON lines for whatever gathers them."""
    return "text" if stream.isatty() else "json"


@contextmanager
def logging_to(stream: TextIO, form: LogFormat) -> Iterator[None]:
    """Send all logging of this process to ``stream``, and put back what was before.

    The root logger's too: what libraries and the event loop have to say must neither break the lines nor quote a text.

    Args:
        stream: standard error.
        form: ``json``, one object a line with ``time``, ``level`` and ``message``; or ``text``.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if form == "json" else Lines())
    root, room = logging.getLogger(), logging.getLogger(ROOM)
    handlers, level = root.handlers[:], room.level
    root.handlers[:] = [handler]
    room.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        room.setLevel(level)
        root.handlers[:] = handlers


def say_without_texts(loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """An event loop's exception handler: type and stack of what nobody caught, without its words."""
    error = context.get("exception")
    what = f"{type(error).__name__} that nobody caught" if error else "a complaint of the event loop"
    logging.getLogger(ROOM).error("%s", what, exc_info=error)


class Lines(logging.Formatter):
    """Lines for people. An exception shows as its type and stack: its words may quote a caller's text."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatException(self, ei: _ExcInfo) -> str:
        """Types and stacks of an exception and of what caused it."""
        parts, error = [], ei[1]
        while error is not None:
            parts.append("".join(traceback.format_tb(error.__traceback__)) + type(error).__name__)
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\nfrom ".join(parts)


class JsonLines(Lines):
    """One JSON object a line: ``time`` (UTC, ISO 8601), ``level``, ``message`` and, of an exception, ``stack``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {"time": iso(record.created), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def iso(created: float) -> str:
    """A time of ``time.time`` as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
