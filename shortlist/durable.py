"""What a crash must not take back: files, and the folders that name them, flushed to the disk."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["sync", "sync_tree"]


def sync(path: Path) -> None:
    """Flush a file, or which names a folder holds."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Flush everything below a folder, and the folder."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)
