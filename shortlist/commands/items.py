"""`shortlist items`: change and read the catalogue of a running server, or of a workdir."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from shortlist.commands.answering import taking_changes
from shortlist.commands.json_lines import item_document, item_of, read_lines
from shortlist.commands.options import json_option, store_option, target_option
from shortlist.commands.sending import Outcome, Sent, batches_of, insist, show_refused
from shortlist.commands.terminal import Report, Terminal
from shortlist.feed import CatalogPage, CatalogReport, FoundItems
from shortlist.live import CatalogItem

if TYPE_CHECKING:
    from orchestrator.store_feed import StoreFeed
    from shortlist.client import AsyncClient

__all__ = ["items", "show_report"]

_BATCH = 500  # items of one request: with long texts still below the limit of a message

wait_option = click.option(
    "--wait",
    is_flag=True,
    show_envvar=True,
    help="Return only when every shard knows; needs --target.",
)


@click.group()
def items() -> None:
    """Change and read the catalogue while it is served.

    A change is durable when the command returns, and on every page within a second; with --wait it
    is on every page when the command returns.

    \b
      shortlist items upsert new.jsonl --target 127.0.0.1:7700 --wait
      shortlist items delete i17 --workdir W
    """


@items.command()
@click.argument("file", type=click.File("rb"), default="-")
@store_option
@target_option
@wait_option
@json_option
def upsert(
    file: IO[bytes], workdir: Path | None, target: str | None, wait: bool, as_json: bool
) -> int:
    """Add or replace the items in FILE, one JSON object a line; - or nothing is stdin.

    Fields: id, and optionally title, attributes (by feature name of the schema), published_ms,
    expires_ms, hidden. What a line does not name is empty afterwards: an item is replaced as a
    whole. The exit code is 1 when a line was refused.

    \b
      shortlist items upsert new.jsonl --target 127.0.0.1:7700 --wait
    \b
    A line:
      {"id": "i900", "title": "New", "attributes": {"category": ["drama"], "price": 9.5}}
    """
    _check_wait(wait, target)
    terminal = Terminal(as_json=as_json)
    with terminal.only_json(), terminal.progress() as report:
        sent = asyncio.run(_upsert(file, workdir, target, wait, report))
    show_refused(sent.refused, terminal.out)
    terminal.out.print(
        f"{sent.lines:,} lines: {sent.accepted:,} items written, {len(sent.refused):,} refused; "
        f"the log is at {sent.log_sequence:,}"
    )
    terminal.emit(asdict(sent))
    return 1 if sent.refused else 0


@items.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@store_option
@target_option
@wait_option
@json_option
def delete(
    ids: tuple[str, ...], workdir: Path | None, target: str | None, wait: bool, as_json: bool
) -> int:
    """Remove items from every page.

    \b
      shortlist items delete i17 i18 --target 127.0.0.1:7700 --wait
    """
    _check_wait(wait, target)

    async def ask() -> CatalogReport:
        async with taking_changes(workdir, target) as feed:
            return await insist(lambda: feed.delete_items(ids, wait_for_index=wait))

    return show_report(asyncio.run(ask()), "items removed", Terminal(as_json=as_json))


@items.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@store_option
@target_option
@json_option
def get(ids: tuple[str, ...], workdir: Path | None, target: str | None, as_json: bool) -> int:
    """Print items, one JSON object a line, as `upsert` reads them.

    The exit code is 1 when one does not exist.

    \b
      shortlist items get i17 i18 --workdir W
    """

    async def ask() -> FoundItems:
        async with taking_changes(workdir, target) as feed:
            return await feed.get_items(ids)

    terminal, found = Terminal(as_json=as_json), asyncio.run(ask())
    if as_json:
        documents = [item_document(item) for item in found.items]
        terminal.emit({"items": documents, "missing_ids": list(found.missing_ids)})
    else:
        _print_lines(found.items)
    for missing in found.missing_ids:
        terminal.err.print(f"[yellow]not in the catalogue:[/] {escape(missing)}")
    return 1 if found.missing_ids else 0


@items.command("list")
@click.option(
    "--page-size",
    type=click.IntRange(1, 1000),
    default=100,
    show_default=True,
    show_envvar=True,
    help="Items of a page.",
)
@click.option("--page-token", default="", show_envvar=True, help="Of the page before.")
@click.option("--all", "everything", is_flag=True, show_envvar=True, help="All pages, to the end.")
@store_option
@target_option
@json_option
def list_(
    page_size: int,
    page_token: str,
    everything: bool,
    workdir: Path | None,
    target: str | None,
    as_json: bool,
) -> None:
    """Print a page of the catalogue, one JSON object a line, as `upsert` reads them.

    \b
    The whole catalogue as a file:
      shortlist items list --all --workdir W > items.jsonl
    """
    if everything and as_json:
        raise click.UsageError("--all prints lines, which may be many: leave out --json")
    terminal = Terminal(as_json=as_json)
    page = asyncio.run(_list(page_size, page_token, everything, workdir, target))
    if as_json:
        documents = [item_document(item) for item in page.items]
        terminal.emit({"items": documents, "next_page_token": page.next_page_token})
        return
    _print_lines(page.items)
    if page.next_page_token:
        terminal.err.print(f"[dim]next: --page-token {page.next_page_token}[/]")


def show_report(report: CatalogReport, what: str, terminal: Terminal) -> int:
    """The answer to a list of ids; returns the exit code: 1 when one was refused."""
    if report.errors:
        table = Table("id", "field", "why", title=f"{len(report.errors):,} were refused")
        for one in report.errors:
            table.add_row(escape(one.id), escape(one.field), escape(one.message))
        terminal.out.print(table)
    terminal.out.print(f"{report.accepted:,} {what}; the log is at {report.sequence:,}")
    terminal.emit(asdict(report))
    return 1 if report.errors else 0


async def _upsert(
    file: IO[bytes], workdir: Path | None, target: str | None, wait: bool, report: Report
) -> Sent[CatalogItem]:
    sent = Sent[CatalogItem]()
    async with taking_changes(workdir, target) as feed:
        for lines in batches_of(read_lines(file, item_of), _BATCH):
            await sent.send(lines, lambda batch: _write(feed, batch, wait))
            report("Writing items", sent.lines, None)
    return sent


async def _write(
    feed: AsyncClient | StoreFeed, batch: Sequence[CatalogItem], wait: bool
) -> Outcome:
    answer = await feed.upsert_items(batch, wait_for_index=wait)
    return Outcome(
        accepted=answer.accepted,
        refused=[(*_place(one.field), one.message) for one in answer.errors],
        sequence=answer.sequence,
    )


async def _list(
    page_size: int, page_token: str, everything: bool, workdir: Path | None, target: str | None
) -> CatalogPage:
    async with taking_changes(workdir, target) as feed:
        page = await feed.list_items(page_size=page_size, page_token=page_token)
        while everything and page.next_page_token:
            _print_lines(page.items)
            page = await feed.list_items(page_size=page_size, page_token=page.next_page_token)
        return page


def _print_lines(items: Sequence[CatalogItem]) -> None:
    for item in items:
        click.echo(json.dumps(item_document(item), ensure_ascii=False))


def _place(path: str) -> tuple[int, str]:
    """`items[3].attributes["price"]` to (3, `attributes["price"]`)."""
    found = re.fullmatch(r"items\[(\d+)\]\.(.*)", path, re.DOTALL)
    return (int(found[1]), found[2]) if found else (0, path)


def _check_wait(wait: bool, target: str | None) -> None:
    if wait and not target:
        raise click.UsageError("--wait needs --target: a server knows whom to wait for")
