"""`shortlist recommend`: one page for one user, from a running server or from a workdir."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from shortlist.commands.answering import answering
from shortlist.commands.options import (
    artifacts_option,
    attribute_option,
    exclude_option,
    filter_option,
    json_option,
    page_size_option,
    parse_blocked,
    parse_context,
    target_option,
    trace_option,
)
from shortlist.commands.pages import page_document, show_page
from shortlist.commands.terminal import Terminal
from shortlist.page import Page, PageRequest, RecentEvent

__all__ = ["ask_for_page", "recommend"]


@click.command()
@click.option(
    "--user",
    default="",
    show_envvar=True,
    metavar="ID",
    help="User id as imported; an unknown one gets a page for somebody new.",
)
@click.option(
    "--cold",
    "--anonymous",
    "anonymous",
    is_flag=True,
    show_envvar=True,
    help="Nobody in particular: no history, no attributes.",
)
@artifacts_option
@target_option
@page_size_option
@click.option(
    "--page-token", default="", show_envvar=True, help="Came with the page before; continues it."
)
@click.option(
    "--context",
    multiple=True,
    metavar="NAME=VALUE",
    show_envvar=True,
    help="An attribute of the moment, for instance device=phone. May be repeated.",
)
@click.option(
    "--recent",
    multiple=True,
    metavar="ITEM",
    show_envvar=True,
    help="An item that the user just touched, oldest first. May be repeated.",
)
@exclude_option
@filter_option
@click.option(
    "--block",
    multiple=True,
    metavar="NAME=VALUE",
    show_envvar=True,
    help="Show no item with that value of a feature, for instance genre=horror. May be repeated.",
)
@click.option(
    "--include-seen", is_flag=True, show_envvar=True, help="Recommend what the user has seen, too."
)
@attribute_option
@click.option(
    "--arm",
    default="",
    show_envvar=True,
    metavar="NAME",
    help="Arm of an experiment, one of `ranking.arms` in shortlist.yaml.",
)
@trace_option
@json_option
def recommend(
    user: str,
    anonymous: bool,
    workdir: Path | None,
    target: str | None,
    page_size: int | None,
    page_token: str,
    context: tuple[str, ...],
    recent: tuple[str, ...],
    exclude: tuple[str, ...],
    filter: str,
    block: tuple[str, ...],
    include_seen: bool,
    attribute: tuple[str, ...],
    arm: str,
    trace: bool,
    as_json: bool,
) -> None:
    """Show a page of recommendations, and the funnel that made it.

    \b
    Straight from a workdir, no server needed:
      shortlist recommend --workdir W --user 42
    \b
    From a server that `shortlist serve` or `shortlist up` started:
      shortlist recommend --target 127.0.0.1:7700 --user 42 --json
    \b
    Somebody new, on a phone, who just looked at two items:
      shortlist recommend --workdir W --cold --context device=phone --recent i17 --recent i4
    \b
    Only what a filter lets through, and nothing of one kind:
      shortlist recommend --workdir W --user 42 --filter 'year >= 1990' --block genre=horror
    """
    if bool(user) == anonymous:
        raise click.UsageError("give either --user ID or --cold")
    request = PageRequest(
        user_id=user,
        page_size=page_size or 0,
        page_token=page_token,
        exclude_item_ids=exclude,
        filter=filter,
        blocked=parse_blocked(block),
        exclude_seen=not include_seen,
        recent_events=tuple(RecentEvent(item_id=item) for item in recent),
        context=parse_context(context),
        return_attributes=attribute,
        arm=arm,
        trace=trace,
    )
    terminal = Terminal(as_json=as_json)
    with terminal.only_json():
        page = asyncio.run(ask_for_page(request, workdir, target))
    show_page(page, terminal.out, title=f"For {user or 'somebody new'}")
    terminal.emit(page_document(page))


async def ask_for_page(request: PageRequest, workdir: Path | None, target: str | None) -> Page:
    """One page, of the server at `target` or of the workdir. Raises what `answering` raises."""
    async with answering(workdir, target) as recommender:
        return await recommender.recommend(request)
