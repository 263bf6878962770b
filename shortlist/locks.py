"""Locks of files, which the kernel takes back from a process that dies."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["lock", "locked"]


def lock(path: Path, how: int) -> int:
    """A handle that holds the lock of `path`, made if need be, until it is closed; `how` is that of
    `fcntl.flock`. Raises `BlockingIOError` when it should not wait and would have to."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR)
    try:
        fcntl.flock(handle, how)
    except OSError:
        os.close(handle)
        raise
    return handle


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone with `path` inside the block; waits until it is."""
    handle = lock(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(handle)
