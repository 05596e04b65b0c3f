"""Waking a greenlet at an exact time. Imported in Locust's child processes only.

gevent's own timers count in whole milliseconds (epoll's unit) and wake up to 1 ms late, which at a target of a few
milliseconds is most of the reading. A Linux ``timerfd`` in the same event loop wakes within some 0.1 ms and burns no
CPU that the server under test may need.
"""

from __future__ import annotations

import ctypes
import os
import time
from types import TracebackType

import gevent

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1
_READ = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _ITimerspec(ctypes.Structure):
    _fields_ = (("it_interval", _Timespec), ("it_value", _Timespec))


class Alarm:
    """One sleeper: a context manager around one timer."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._hub = gevent.get_hub()
        self._watcher = self._hub.loop.io(self._descriptor, _READ)

    def wait_until(self, due: float) -> None:
        """Return at ``due`` (seconds of ``time.monotonic``), at once if that is past."""
        if due <= time.monotonic():
            return
        seconds = int(due)
        # A value of zero would disarm the timer; due is past 0 here, so at least the nanoseconds are not zero.
        when = _ITimerspec(_Timespec(0, 0), _Timespec(seconds, int((due - seconds) * 1e9)))
        if self._libc.timerfd_settime(self._descriptor, _ABSOLUTE, ctypes.byref(when), None):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._hub.wait(self._watcher)
        os.read(self._descriptor, 8)

    def __enter__(self) -> Alarm:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._watcher.stop()
        self._watcher.close()
        os.close(self._descriptor)
