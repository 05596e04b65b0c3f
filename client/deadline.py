"""How long a call may still take; all its tries together."""

from __future__ import annotations

import time

from ..bundle.errors import InvalidInput

_DAY = 86_400  # seconds


class Deadline:
    """The end of a call's time, which begins now.

    Args:
        timeout: seconds.

    Raises:
        InvalidInput: not a positive number, or more than a day: no call waits for ever.
    """

    def __init__(self, timeout: float) -> None:
        if not isinstance(timeout, int | float) or not 0 < timeout <= _DAY:
            raise InvalidInput("timeout", found=repr(timeout), wanted=f"seconds, more than 0 and at most {_DAY}")
        self.timeout = timeout
        self._end = time.monotonic() + timeout

    def left(self) -> float:
        """Seconds that are left; 0 or less once it has passed."""
        return self._end - time.monotonic()
