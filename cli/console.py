"""What a person sees: tables that fit 100 columns, progress, notes. All of it goes to standard error.

Standard output carries answers alone, so that ``--json`` can be piped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..bundle.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

WIDTH = 100
PLAIN_SECONDS = 5.0
"""Between two lines of progress where there is no terminal."""


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options that every command takes: ``--store`` and ``--json``."""
    parser.add_argument("--store", type=Path, help="folder of bundles (default: $NLPDEPLOY_STORE, else ./model_store)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output, nothing else there")


def store_root(arguments: argparse.Namespace) -> Path:
    """The store: ``--store``, else ``$NLPDEPLOY_STORE``, else ``./model_store``."""
    return Path(arguments.store or os.environ.get("NLPDEPLOY_STORE") or "model_store")


def print_json(value: Any) -> None:
    """One JSON value on standard output, whole or not at all."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(value, ensure_ascii=not unicode, indent=2, allow_nan=False))


def console() -> Console:
    """A console on standard error, at most 100 columns wide, colourless without a TTY or with ``NO_COLOR``."""
    from rich.console import Console

    class Calm(Console):
        # Rich would end the process with status 1, which here means a bug.
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns) if sys.stderr.isatty() else WIDTH
    return Calm(stderr=True, width=width, highlight=False)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)) -> None:
    """A plain table; numbers to the right except in the columns ``left``."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    shown = console()
    widths = [max(map(cell_len, column)) for column in zip(headings, *rows, strict=True)]
    # Two spaces between columns where there is room for them, or one, before a cell has to be folded.
    gap = int(sum(widths) + 2 * (len(widths) - 1) <= shown.width)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, gap, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    shown.print(table)


def note(text: str) -> None:
    """A line for the person at the terminal."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """Shows stages: a bar on a terminal, a plain line at a stage's end elsewhere.

    Calling it with (stage, done, total) is the callback that long functions take; total 0 is of unknown length.

    Args:
        heed: called at each report first; what it raises ends the long function.
    """

    def __init__(self, heed: Callable[[], None] | None = None) -> None:
        self._heed = heed
        self._stage = ""
        self._started = 0.0
        self._said = time.perf_counter()
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as RichProgress

            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bar = RichProgress(*columns, TimeElapsedColumn(), console=console(), transient=True)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self._finish_stage()
        if self._bar:
            self._bar.stop()

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Report that ``done`` of ``total`` steps of a stage are done."""
        if self._heed:
            self._heed()
        if stage != self._stage:
            self._finish_stage()
            self._stage, self._started = stage, time.perf_counter()
            if self._bar:
                self._task = self._bar.add_task(stage, total=total or None)
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, total=total or None)

    def say(self, text: str) -> None:
        """Report where a long stage stands: a changing line on a terminal, elsewhere a line every few seconds."""
        if self._bar:
            if self._task is None:
                self._task = self._bar.add_task(text, total=None)
            self._bar.update(self._task, description=text)
        elif time.perf_counter() - self._said >= PLAIN_SECONDS:
            self._said = time.perf_counter()
            note(text)

    def _finish_stage(self) -> None:
        if not self._stage:
            return
        seconds = time.perf_counter() - self._started
        if self._bar and self._task is not None:
            self._bar.remove_task(self._task)
        if self._bar:
            self._bar.console.print(f"{self._stage}  {seconds:.1f} s", style="dim")
        elif seconds >= 1.0:
            note(f"{self._stage}  {seconds:.1f} s")
        self._stage, self._task = "", None


def host_port(text: str) -> int:
    """A TCP port for argparse; 0 lets the system choose."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"found {text!r}; wanted a port from 0 to 65535")
    return int(text)


def positive(text: str) -> float:
    """A positive number for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text!r}; wanted a number above 0")
    return value


def read_lines(lines: Sequence[str]) -> list[str]:
    """Texts from the command line, or one a line from standard input for ``-``.

    Raises:
        InvalidInput: no texts, or standard input is not UTF-8.
    """
    if list(lines) == ["-"]:
        try:
            text = sys.stdin.buffer.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InvalidInput("standard input", found=f"byte {error.start} is not UTF-8", wanted="UTF-8") from None
        # Not splitlines, which also splits inside a text, at U+2028 and the like.
        lines = [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]
    if not lines:
        raise InvalidInput("texts", found="none", wanted="at least one, or - to read lines from standard input")
    return list(lines)
