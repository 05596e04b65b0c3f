"""Ctrl-C that an extension module swallows is still Ctrl-C; an error without it stays the error."""

import contextlib
import os
import signal
import time

import pytest

from nlpdeploy.bundle.errors import InvalidInput
from nlpdeploy.cli.console import Progress
from nlpdeploy.cli.interrupts import heeded


def _press():
    """Ctrl-C, and time for it to come."""
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
    raise AssertionError("no interrupt came")


def _swallow():
    """Ctrl-C in code whose caller raises an error of its own instead."""
    with contextlib.suppress(KeyboardInterrupt):
        _press()
    raise InvalidInput("weights file is damaged")


def test_what_is_raised_instead_of_the_interrupt_is_the_interrupt():
    with pytest.raises(KeyboardInterrupt), heeded():
        _swallow()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_itself_passes():
    with pytest.raises(KeyboardInterrupt), heeded():
        _press()


def test_an_error_without_an_interrupt_is_itself():
    with pytest.raises(InvalidInput, match="damaged"), heeded():
        raise InvalidInput("weights file is damaged")


def _long_function(progress, done):
    progress("build")
    done.append("build")
    with contextlib.suppress(InvalidInput):
        _swallow()
    progress("time")
    done.append("time")


def test_a_block_that_went_on_ends_at_its_next_report():
    done = []
    with pytest.raises(KeyboardInterrupt), heeded() as heed, Progress(heed) as progress:
        _long_function(progress, done)
    assert done == ["build"]


def test_who_ignores_the_signal_goes_on_ignoring_it():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with heeded():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
