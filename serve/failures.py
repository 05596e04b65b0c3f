"""What a caller is told of an error, and what the log is: both fronts answer through this door."""

from __future__ import annotations

import logging
import traceback

from ..bundle.errors import NlpdeployError
from ..wire.status import Failure, failure_of

log = logging.getLogger(__name__)


def explain(error: Exception) -> Failure:
    """The failure to answer. One that is no kind of ours is a bug, and is logged without its message.

    A foreign error's message may quote a caller's text, and texts stay out of logs: its type and stack are enough.
    """
    if not isinstance(error, NlpdeployError):
        stack = "".join(traceback.format_tb(error.__traceback__))
        log.error("a bug, %s, was answered as an internal error:\n%s", type(error).__name__, stack)
    return failure_of(error)
