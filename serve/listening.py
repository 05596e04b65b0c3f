"""Why a front can't listen where it was told to."""

from __future__ import annotations

import errno

from ..bundle.errors import InvalidInput

_PORT_AT_FAULT = (errno.EADDRINUSE, errno.EACCES)


def cannot_listen(front: str, host: str, port: int, flag: str, error: OSError) -> InvalidInput:
    """The error of an address that can't be listened on; ``flag`` is the command line's of the port."""
    found = errno.errorcode.get(error.errno or 0, type(error).__name__)
    mend = "give an address of this machine as --host"
    if error.errno in _PORT_AT_FAULT:
        mend = f"choose another port with {flag}, 0 for any"
    return InvalidInput(f"{front} can't listen on {host}:{port}", found=found, mend=mend)
