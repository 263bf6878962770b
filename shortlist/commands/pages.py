"""Recommended items as tables for people and as one JSON object for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shortlist.page import Page, SimilarItems, Trace
from shortlist.tiers import AttributeValue

__all__ = ["Answer", "page_document", "show_page"]

Answer = Page | SimilarItems


def page_document(page: Answer) -> dict[str, object]:
    """What `--json` prints: the fields of the answer (`shortlist.page`), empty attributes left
    out."""
    document = asdict(page)
    document["items"] = [
        {name: value for name, value in item.items() if name != "attributes" or value}
        for item in document["items"]
    ]
    document["coverage"]["share"] = page.coverage.share
    return document


def show_page(page: Answer, console: Console, *, title: str) -> None:
    """The page, the funnel where the page carries one, and what is missing from it."""
    console.print(_page_table(page, title))
    if page.trace is not None:
        console.print(_funnel_table(page.trace))
    console.print(_summary(page), soft_wrap=True)
    for loss in page.degradations:
        text = escape(f"{loss.reason} at {loss.stage}: {loss.detail}")
        console.print(f"[yellow]degraded:[/] {text}", soft_wrap=True)


def _page_table(page: Answer, title: str) -> Table:
    table = Table(title=title)
    table.add_column("#", justify="right")
    table.add_column("title", max_width=60, no_wrap=True)
    table.add_column("id", max_width=24, no_wrap=True)
    table.add_column("score", justify="right")
    table.add_column("sources")
    attributes = list(dict.fromkeys(name for item in page.items for name in item.attributes))
    for name in attributes:
        table.add_column(name, max_width=30)
    for item in page.items:
        table.add_row(
            str(item.rank + 1),
            escape(item.title or "-"),
            escape(item.id),
            f"{item.score:.4f}",
            ", ".join(item.sources),
            *(escape(_text(item.attributes.get(name, ""))) for name in attributes),
        )
    return table


def _funnel_table(trace: Trace) -> Table:
    table = Table(title=f"Funnel, {trace.total_us / 1000:.1f} ms")
    table.add_column("stage")
    for name in ("in", "out", "ms"):
        table.add_column(name, justify="right")
    table.add_column("dropped")
    table.add_column("by source")
    for stage in trace.stages:
        table.add_row(
            stage.stage,
            f"{stage.items_in:,}",
            f"{stage.items_out:,}",
            f"{stage.duration_us / 1000:.2f}",
            _counts(stage.dropped),
            _counts(stage.by_source),
        )
    return table


def _summary(page: Answer) -> str:
    coverage = page.coverage
    parts = [
        f"{coverage.shards_answered}/{coverage.shards_total} shards searched "
        f"{coverage.items_searched:,} of {coverage.items_total:,} items",
        f"retrieval {page.versions.retrieval or 'none'}",
    ]
    if isinstance(page, Page):
        parts.extend(_personal(page))
    return "[dim]" + " · ".join(parts) + "[/]"


def _personal(page: Page) -> Iterator[str]:
    """What only an answer for somebody has to tell."""
    versions = page.versions
    yield f"ranking {versions.ranking or 'none'}"
    if versions.ranker:
        yield f"ranker {versions.ranker}"
    if versions.arm:
        yield f"arm {versions.arm}"
    if versions.release:
        yield versions.release
    if page.cold_start:
        yield "cold start: nothing is known of this user"
    if page.unknown_items:
        yield f"{page.unknown_items} unknown item ids in the request"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)


def _text(value: AttributeValue) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"  # numbers travel as float32
    return ", ".join(value) if isinstance(value, tuple) else value
