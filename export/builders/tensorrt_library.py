"""``tensorrt`` and ``tensorrt_rtx`` as they are imported, their messages and their progress.

Neither package raises: what fails gives None, False or -1, and a message to the logger.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from ...bundle.errors import EngineUnavailable

RTX, DATA_CENTRE = "tensorrt_rtx", "tensorrt"
EXTRAS = {RTX: "rtx", DATA_CENTRE: "gpu"}
_NOISE = ("cudaError 35", "catchCudaError")
"""What follows most messages where there is no driver, and explains none."""

Progress = Callable[[str, int, int], None]


def version(library: str) -> str:
    """The installed version.

    Raises:
        EngineUnavailable: it is missing, or its libraries are.
    """
    return str(load_library(library).__version__)


def load_library(library: str) -> Any:
    """``tensorrt`` or ``tensorrt_rtx``, imported.

    Raises:
        EngineUnavailable: it is missing, or its libraries are.
    """
    try:
        return importlib.import_module(library)
    except (ImportError, OSError) as error:
        line = (str(error).splitlines() or [""])[0]
        raise EngineUnavailable(
            f"{library} can't be loaded",
            found=line,
            mend=f"pip install --force-reinstall 'nlpdeploy[{EXTRAS[library]}]'",
        ) from None


def parse_error(parser: Any, messages: Sequence[tuple[int, str]]) -> str:
    """Why a parser refused a graph, with the node and its operator where it knows them."""
    if not parser.num_errors:
        return first_error(messages)
    error = parser.get_error(0)
    text = " ".join(str(error.desc()).split())
    node, operator = error.node_name(), error.node_operator()
    if str(error.code()).endswith("UNSUPPORTED_NODE") and text in ("false", ""):
        text = f"no importer for operator {operator}"
    place = f"node {node} ({operator}): " if node or operator else ""
    return f"{place}{text}"


def first_error(messages: Sequence[tuple[int, str]]) -> str:
    """The first error of the log that says something, without the place in the library's source."""
    errors = [text for level, text in messages if level <= 1 and not any(word in text for word in _NOISE)]
    if not errors:
        return "no message"
    return " ".join(errors[0].split())[:300]


def figure(messages: Sequence[tuple[int, str]], mark: str) -> int:
    """The largest whole number behind a mark in the log, which says some of them for each profile; 0 without any."""
    words = [text.partition(mark)[2].split()[0] for _, text in messages if mark in text]
    return max((int(word) for word in words if word.isdecimal()), default=0)


@cache
def journal_of(library: str) -> Any:
    """The logger of the process: a library keeps the first that it is given, whatever comes later."""
    trt = load_library(library)

    class Journal(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self._lock = threading.Lock()
            self._messages: list[tuple[int, str]] | None = None

        def log(self, severity: Any, text: str) -> None:
            if self._messages is not None:
                self._messages.append((int(severity), text))

        def into(self, messages: list[tuple[int, str]]) -> _Listening:
            return _Listening(self, messages)

    return Journal()


class _Listening:
    """Collects a logger's messages while one build runs; another one waits."""

    def __init__(self, journal: Any, messages: list[tuple[int, str]]) -> None:
        self._journal = journal
        self._messages = messages

    def __enter__(self) -> None:
        self._journal._lock.acquire()
        self._journal._messages = self._messages

    def __exit__(self, *_: object) -> None:
        self._journal._messages = None
        self._journal._lock.release()


@cache
def monitor_of(library: str, stage: str) -> Any:
    """The class of monitors that tell a build's steps and end it where they are told to."""
    trt = load_library(library)

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self, cancel: threading.Event, tell: Progress) -> None:
            super().__init__()
            self._cancel = cancel
            self._tell = tell
            self._done = 0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            pass

        def step_complete(self, name: str, step: int) -> bool:
            # Phases nest, and say only in passing how many steps they have: the total isn't known before the end.
            self._done += 1
            self._tell(stage, self._done, 0)
            return not self._cancel.is_set()

        def phase_finish(self, name: str) -> None:
            pass

    return Monitor
