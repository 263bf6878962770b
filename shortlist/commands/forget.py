"""`shortlist forget`: remove users from a running server's store, or from a workdir's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from shortlist.commands.answering import taking_changes
from shortlist.commands.items import show_report
from shortlist.commands.options import json_option, store_option, target_option
from shortlist.commands.sending import insist
from shortlist.commands.terminal import Terminal
from shortlist.config import Config
from shortlist.feed import CatalogReport

__all__ = ["forget"]


@click.command()
@click.argument("users", nargs=-1, required=True, metavar="USER...")
@store_option
@target_option
@json_option
def forget(users: tuple[str, ...], workdir: Path | None, target: str | None, as_json: bool) -> int:
    """Forget users: nothing of them stays in the store or its log.

    Their later events are refused, and the next training leaves them out, which also takes them out
    of the imported data set; with --workdir that happens at once. It cannot be undone; what remains
    is a keyed digest by which they are recognised and refused.

    \b
      shortlist forget 42 --target 127.0.0.1:7700
    """

    async def ask() -> CatalogReport:
        async with taking_changes(workdir, target) as feed:
            return await insist(lambda: feed.delete_users(users))

    report = asyncio.run(ask())
    if workdir and not target and (workdir / "dataset").exists():
        from training.forget import take_out_the_forgotten

        take_out_the_forgotten(workdir, Config.load(workdir / "shortlist.yaml"))
    return show_report(report, "users forgotten", Terminal(as_json=as_json))
