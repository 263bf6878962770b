"""`shortlist similar`: items like one item, from a running server or from a workdir."""

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
    target_option,
    trace_option,
)
from shortlist.commands.pages import page_document, show_page
from shortlist.commands.terminal import Terminal
from shortlist.page import SimilarItems, SimilarRequest

__all__ = ["similar"]


@click.command()
@click.argument("item")
@artifacts_option
@target_option
@page_size_option
@exclude_option
@filter_option
@attribute_option
@trace_option
@json_option
def similar(
    item: str,
    workdir: Path | None,
    target: str | None,
    page_size: int | None,
    exclude: tuple[str, ...],
    filter: str,
    attribute: tuple[str, ...],
    trace: bool,
    as_json: bool,
) -> None:
    """Show items like ITEM, most similar first.

    ITEM is an id as imported. Items are alike that the same people like, that read and are classed
    alike, and that the models place near each other.

    \b
      shortlist similar i17 --workdir W
      shortlist similar i17 --target 127.0.0.1:7700 --json
    """
    request = SimilarRequest(
        item_id=item,
        page_size=page_size or 0,
        exclude_item_ids=exclude,
        filter=filter,
        return_attributes=attribute,
        trace=trace,
    )
    terminal = Terminal(as_json=as_json)
    with terminal.only_json():
        items = asyncio.run(_answer(request, workdir, target))
    show_page(items, terminal.out, title=f"Like {item}")
    terminal.emit(page_document(items))


async def _answer(
    request: SimilarRequest, workdir: Path | None, target: str | None
) -> SimilarItems:
    async with answering(workdir, target) as recommender:
        return await recommender.similar(request)
