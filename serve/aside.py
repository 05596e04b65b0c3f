"""Work on large messages, apart from the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..wire.json_large import LARGE

T = TypeVar("T")


class Aside:
    """One thread that takes large messages apart and makes large answers; small ones are done at once, where they are.

    One at a time: several would together keep the interpreter from the event loop, and from the tokenizers.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="large messages")

    async def run(self, size: int, work: Callable[[], T]) -> T:
        """The result of ``work``, or what it raises.

        Args:
            size: bytes that it reads or writes, at least about.
            work: no more of it is done, if it hasn't begun, once the awaiting task is cancelled.
        """
        if size <= LARGE:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Begin nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
