"""The C library's heap, told to keep what is freed.

glibc gives large blocks back to the kernel, which hands them out again zeroed, one page fault for each 4 KiB. A runtime
without an arena frees such blocks after every operator. How much of a call that is depends on chance: glibc raises its
thresholds by the sizes that a process happens to free first.
"""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_MMAP_FROM = 32 * 1024 * 1024  # the most that glibc takes
_TRIM_FROM = 256 * 1024 * 1024
_OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")


def keep_freed_memory() -> bool:
    """Let this process keep freed blocks of up to 32 MiB, and 256 MiB free at the end of a heap, for the next call.

    For processes that are this package's own: it holds for everything in them. Such blocks then lie in the heaps, where
    those of other sizes are made of them, instead of in mappings of their own.

    Returns:
        Whether it does. False without glibc, and where the environment says what malloc is to do.
    """
    if not sys.platform.startswith("linux") or _set_by_user():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _MMAP_FROM)) and bool(mallopt(_TRIM_THRESHOLD, _TRIM_FROM))


def _set_by_user() -> bool:
    return "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "") or any(name in os.environ for name in _OWN_SETTINGS)
