"""Ctrl-C where extension modules are at work.

Python raises KeyboardInterrupt in whatever Python code runs next. Where an extension called that code, it may swallow
the interrupt and raise something of its own instead: safetensors then calls a sound file damaged.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def heeded() -> Iterator[Callable[[], None]]:
    """An error that comes up after Ctrl-C ends the block as the interrupt that it is.

    Gives a function to call between steps: it raises the interrupt where one has come and the block went on, as after
    a step whose failure it may survive. For the main thread; does nothing where Ctrl-C is not Python's own to handle.
    """
    came = False

    def heed() -> None:
        if came:
            raise KeyboardInterrupt

    def interrupted(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield heed
        return
    signal.signal(signal.SIGINT, interrupted)
    try:
        yield heed
    except Exception:
        if came:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
