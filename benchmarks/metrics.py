"""`python -m benchmarks.metrics`: what counting costs a page, and watching costs an idle loop."""

from __future__ import annotations

import asyncio
import json
import time

import click

from retrieval_svc.sources import SOURCES
from shortlist.metrics import Metrics
from shortlist.page import Coverage, Page, StageTrace, Trace, Versions

__all__ = ["counting_us", "main", "watching_ms_per_s"]

_STAGES = ("profile", "retrieve", "blend", "filter", "rank", "describe", "slate", "respond")
_SPREAD_US = 900  # between the durations of stages, so that they fall into different buckets


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--pages", type=click.IntRange(1), default=20_000, show_default=True)
@click.option("--seconds", type=float, default=5.0, show_default=True, help="Of an idle loop.")
def main(pages: int, seconds: float) -> None:
    """Print one JSON object: CPU us a page, and CPU ms a second of an idle event loop."""
    figures = {
        "counting_us_per_page": counting_us(pages),
        "watching_ms_per_s": asyncio.run(watching_ms_per_s(seconds)),
    }
    click.echo(json.dumps(figures))


def counting_us(pages: int) -> float:
    """CPU microseconds of all that an orchestrator counts of one page."""
    metrics, trace, page = Metrics("orchestrator"), _trace(), _page()
    started = time.process_time()
    for _ in range(pages):
        metrics.pages.answered("recommend", trace, page)
        metrics.calls.answered("shortlist.v1.Orchestrator", "Recommend", "OK", 0.012)
    return (time.process_time() - started) / pages * 1e6


async def watching_ms_per_s(seconds: float) -> float:
    """CPU milliseconds a second of the event loop's lag, where nothing else wakes the loop."""
    with Metrics("orchestrator").served("127.0.0.1", 0):
        started = time.process_time()
        await asyncio.sleep(seconds)
        return (time.process_time() - started) / seconds * 1000


def _trace() -> Trace:
    """A page's, with a candidate of every source."""
    return Trace(
        stages=tuple(
            StageTrace(
                stage=stage,
                duration_us=500 + _SPREAD_US * at,
                items_in=1000,
                items_out=900,
                dropped={"seen": 3} if stage == "filter" else {},
                by_source=dict.fromkeys(SOURCES, 100) if stage == "retrieve" else {},
            )
            for at, stage in enumerate(_STAGES)
        ),
        total_us=9000,
    )


def _page() -> Page:
    coverage = Coverage(shards_answered=2, shards_total=2, items_searched=10, items_total=10)
    return Page(
        request_id="r",
        items=(),
        attribution_token="",
        next_page_token="",
        coverage=coverage,
        degradations=(),
        versions=Versions(),
    )


if __name__ == "__main__":
    main()
