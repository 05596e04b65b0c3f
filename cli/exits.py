"""Error kind -> exit status, in one table; and the statuses of a load test's verdict.

0 done; 1 a bug; 2 bad usage or input; 3 an engine asked for did not pass, or a package or device
for it is missing; 130 interrupted.
"""

from __future__ import annotations

from ..bundle import errors

BUG = 1
USAGE = 2
NOT_PROVEN = 3
INTERRUPTED = 130
TERMINATED = 143

STATUS: dict[type[errors.NlpdeployError], int] = {
    errors.InvalidInput: USAGE,
    errors.NotFound: USAGE,
    errors.Unsupported: USAGE,
    errors.CorruptBundle: USAGE,
    errors.StoreFailed: USAGE,
    errors.EngineUnavailable: NOT_PROVEN,
    errors.EngineFailed: NOT_PROVEN,
    errors.ParityFailed: NOT_PROVEN,
    errors.TooLarge: USAGE,
    errors.Overloaded: USAGE,
    errors.DeadlineExceeded: USAGE,
    errors.Cancelled: INTERRUPTED,
    errors.Unavailable: USAGE,
}

VERDICT = {"CONFIRMED": 0, "REFUTED": 10, "INCONCLUSIVE": 11, "INVALID": 12}


def exit_status(error: errors.NlpdeployError) -> int:
    """The exit status of an error, by its kind or the kind it derives from."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return BUG
