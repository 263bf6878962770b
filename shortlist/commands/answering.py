"""Who answers a command: a running server, or a workdir in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from orchestrator.pipeline import Recommender
    from orchestrator.store_feed import StoreFeed
    from shortlist.client import AsyncClient

__all__ = ["answering", "taking_changes"]

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


@asynccontextmanager
async def taking_changes(
    workdir: Path | None, target: str | None
) -> AsyncIterator[AsyncClient | StoreFeed]:
    """The orchestrator at `target`, or the workdir's store behind the same checks.

    No tier is loaded: whoever serves the workdir learns of the change from the store's log. Raises
    `click.UsageError` when neither is given, or the workdir has no schema yet.
    """
    if target:
        from shortlist.client import AsyncClient

        async with AsyncClient(target, timeout_s=_TIMEOUT_S) as client:
            yield client
    elif workdir:
        from orchestrator.store_feed import StoreFeed

        if not (workdir / "schema.yaml").exists():
            raise click.UsageError(f"nothing was imported into {workdir} yet: no schema.yaml")
        async with StoreFeed.of(workdir) as feed:
            yield feed
    else:
        raise click.UsageError("give --target HOST:PORT, or --workdir FOLDER to write its store")
