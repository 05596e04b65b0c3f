"""How long a call may still take; all its tries together."""

from __future__ import annotations

import math
import time

from ..bundle.errors import InvalidInput


class Deadline:
    """The end of a call's time, which begins now.

    Args:
        timeout: seconds.

    Raises:
        InvalidInput: not a positive, finite number: no call waits for ever.
    """

    def __init__(self, timeout: float) -> None:
        if not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
            raise InvalidInput("timeout", found=repr(timeout), wanted="a positive number of seconds")
        self.timeout = timeout
        self._end = time.monotonic() + timeout

    def left(self) -> float:
        """Seconds that are left; 0 or less once it has passed."""
        return self._end - time.monotonic()
