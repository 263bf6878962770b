"""Where a benchmark keeps its world."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["kept_or_temporary"]


@contextlib.contextmanager
def kept_or_temporary(workdir: Path | None, name: str) -> Iterator[Path]:
    """The folder `workdir`; None: one of the benchmark `name` that is gone afterwards."""
    if workdir is not None:
        yield workdir.resolve()
        return
    with tempfile.TemporaryDirectory(prefix=f"shortlist-{name}-") as folder:
        yield Path(folder)
