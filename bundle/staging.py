"""Folders that only their maker sees, locks, and writes that are on the disk when they return."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


class Staging:
    """A folder that only its maker sees, until :meth:`Store.publish` renames it into place."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def close(self) -> None:
        """Remove what is left of the folder and give the lock back."""
        shutil.rmtree(self.path, ignore_errors=True)
        lock_file = self.path.with_suffix(".lock")
        lock_file.unlink(missing_ok=True)
        os.close(self._lock)


def new_staging(base: Path, name: str) -> Staging:
    """A locked, empty folder under ``base``."""
    # The lock comes first: a cleaner that finds the folder finds it locked. One that came between the making of the
    # lock file and its locking has removed the file, so its name is looked up again.
    while True:
        handle, lock_path = tempfile.mkstemp(prefix=f"{name}-", suffix=".lock", dir=base)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.path.exists(lock_path):
                folder = Path(lock_path).with_suffix("")
                folder.mkdir()
                return Staging(folder, handle)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def clear_abandoned(base: Path) -> None:
    """Remove the folders of makers that died: their lock is free."""
    for lock_path in base.glob("*.lock"):
        with contextlib.suppress(OSError):
            handle = os.open(lock_path, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock_path.with_suffix(""), ignore_errors=True)
                lock_path.unlink(missing_ok=True)
            finally:
                os.close(handle)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Exclude other writers of a folder; the kernel drops the lock of a process that dies."""
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def sync_tree(folder: Path) -> None:
    """Wait until all files and folders are on the disk."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
