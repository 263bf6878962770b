"""Who answers a command that asks for items: a running server, or a workdir in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from orchestrator.pipeline import Recommender
    from shortlist.client import AsyncClient

__all__ = ["answering"]

_TIMEOUT_S = 30.0


@asynccontextmanager
async def answering(
    workdir: Path | None, target: str | None
) -> AsyncIterator[AsyncClient | Recommender]:
    """The orchestrator at `target`, or the whole pipeline on the workdir's current artifacts.

    Raises `click.UsageError` when neither is given, and what opening artifacts raises.
    """
    if target:
        from shortlist.client import AsyncClient

        async with AsyncClient(target, timeout_s=_TIMEOUT_S) as client:
            yield client
    elif workdir:
        from orchestrator.embedded import embedded

        async with await embedded(workdir) as recommender:
            yield recommender
    else:
        raise click.UsageError(
            "give --target HOST:PORT, or --workdir FOLDER to answer without a server"
        )
