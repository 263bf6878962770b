"""`python -m benchmarks.freshness`: how soon a change is on a page, and what taking it in costs.

The system runs in processes of its own and is asked over gRPC: `embedded` is `shortlist serve`, all
in one process over SQLite; `distributed` is `shortlist up`, shards, a ranker and an orchestrator
over Redis. Pages are asked for at a steady rate all the while.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table

from benchmarks.folders import kept_or_temporary
from benchmarks.live.flow import EventFlow
from benchmarks.live.load import PageLoad
from benchmarks.live.probes import (
    delete_to_gone,
    event_to_page,
    sightings_after,
    upsert_to_recommended,
)
from benchmarks.live.systems import (
    SYSTEMS,
    Sizes,
    known_items,
    known_users,
    prepare,
    running,
)
from shortlist.client import AsyncClient
from shortlist.commands.terminal import Terminal
from shortlist.errors import ShortlistError
from shortlist.live import CatalogItem

__all__ = ["main"]

_MORE_THAN_IT_TAKES = 40_000  # events a second
_PAUSE_S = 0.5  # for what a stretch has left behind
_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much to ask."""

    samples: int  # of each kind of change
    rate: float  # pages a second meanwhile
    ingest_rate: float  # events a second beside which pages are timed
    seconds: float  # of one timed stretch
    rounds: int  # of a quiet and a busy stretch, in turn


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, no table.")
@click.option("--items", default=1_000_000, show_default=True, help="Items of the made-up world.")
@click.option("--users", default=20_000, show_default=True, help="People in it.")
@click.option("--events", default=300_000, show_default=True, help="What they did.")
@click.option(
    "--workdir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the trained world here, and use it again; default: a temporary folder.",
)
@click.option(
    "--system",
    "systems",
    type=click.Choice(list(SYSTEMS)),
    multiple=True,
    default=list(SYSTEMS),
    help="Measure only this one; may be repeated.",
)
@click.option("--samples", default=100, show_default=True, help="Changes of each kind.")
@click.option("--rate", default=10.0, show_default=True, help="Pages a second meanwhile.")
@click.option(
    "--ingest-rate", default=5000.0, show_default=True, help="Events a second beside the pages."
)
@click.option("--seconds", default=5.0, show_default=True, help="Of one timed stretch.")
@click.option(
    "--rounds", default=12, show_default=True, help="Of a quiet and a busy stretch, in turn."
)
def main(
    as_json: bool,
    items: int,
    users: int,
    events: int,
    workdir: Path | None,
    systems: tuple[str, ...],
    **plan: Any,
) -> None:
    """Measure freshness over a world of --items items.

    \b
      python -m benchmarks.freshness --workdir W --json
      python -m benchmarks.freshness --items 20000 --samples 20 --rounds 2
    """
    terminal = Terminal(as_json=as_json)
    result: dict[str, Any] = {}
    try:
        with terminal.only_json(), kept_or_temporary(workdir, "freshness") as folder:
            prepare(folder, Sizes(items=items, users=users, events=events), terminal)
            for name in dict.fromkeys(systems):
                with running(SYSTEMS[name], folder, terminal) as target:
                    result[name] = asyncio.run(_measure(target, folder, Plan(**plan), terminal))
                    result[name]["store"] = SYSTEMS[name].store
    except ShortlistError as error:
        raise click.ClickException(str(error)) from None
    result["items"], result["plan"] = items, plan
    terminal.out.print(_table(result, systems))
    terminal.emit(result)


async def _measure(target: str, folder: Path, plan: Plan, terminal: Terminal) -> dict[str, Any]:
    users, items = known_users(folder), known_items(folder)
    rng = np.random.default_rng(0)
    asked = [users[at] for at in rng.integers(len(users), size=4 * plan.samples)]
    parts = [asked[start::4] for start in range(4)]
    async with AsyncClient(target, timeout_s=60, retries=False) as client:
        load = PageLoad(client, users, rate=plan.rate)
        async with load.running():
            with terminal.step("event to page"):
                event_ms = await event_to_page(client, parts[0])
            with terminal.step("upsert to recommended"):
                fresh = await _new_items(client, items, plan.samples, rng)
                upsert_ms = await upsert_to_recommended(client, fresh, parts[1])
            with terminal.step("delete to gone"):
                delete_ms = await delete_to_gone(client, parts[2])
            with terminal.step("sightings after the acknowledgement"):
                sightings = await sightings_after(client, parts[3], readers=4, pages=3)
        with EventFlow(target, users, items) as flow:
            with terminal.step("as many events as it takes"):
                await flow.prepare(int(plan.seconds * _MORE_THAN_IT_TAKES), seed=1)
                most = await flow.send(plan.seconds)
            with terminal.step("pages beside events"):
                beside = await _beside_events(client, flow, users, plan)
    return {
        "event_to_page_ms": _spread(event_ms),
        "upsert_to_recommended_ms": _spread(upsert_ms),
        "delete_to_gone_ms": _spread(delete_ms),
        "sightings_after_ack": sightings,
        "ingest_per_s": most,
        **beside,
        "pages": len(load.latencies_ms),
        "failed_pages": load.failures,
        "recommend_ms": _spread(load.latencies_ms),
    }


async def _new_items(
    client: AsyncClient, items: list[str], count: int, rng: np.random.Generator
) -> list[CatalogItem]:
    """Items like some that there are, under ids that nobody has seen, published just now."""
    models = [items[at] for at in rng.choice(len(items), size=count, replace=False)]
    found = (await client.get_items(models)).items
    now_ms = time.time_ns() // 1_000_000
    return [replace(one, id=f"new-{uuid.uuid4().hex}", published_ms=now_ms) for one in found]


async def _beside_events(
    client: AsyncClient, flow: EventFlow, users: list[str], plan: Plan
) -> dict[str, Any]:
    """The same pages with a steady flow of events and without, in turn; who is first changes."""
    quiet: list[list[float]] = []
    busy: list[list[float]] = []
    rates: list[float] = []
    for number in range(plan.rounds):
        await flow.prepare(int(plan.seconds * plan.ingest_rate), seed=number)
        for with_events in (number % 2 == 0, number % 2 == 1):
            await asyncio.sleep(_PAUSE_S)
            load = PageLoad(client, users, rate=plan.rate, seed=number)
            async with load.running():
                if with_events:
                    rates.append(await flow.send(plan.seconds, rate=plan.ingest_rate))
                else:
                    await asyncio.sleep(plan.seconds)
            (busy if with_events else quiet).append(load.latencies_ms)
    return {
        "ingest_beside_pages_per_s": float(np.median(rates)),
        "recommend_quiet_ms": _spread(list(chain(*quiet))),
        "recommend_busy_ms": _spread(list(chain(*busy))),
        **_ratio(quiet, busy),
    }


def _ratio(quiet: list[list[float]], busy: list[list[float]]) -> dict[str, Any]:
    """p99 of all busy stretches / of all quiet ones, with 95 % by drawing rounds anew."""

    def of(rounds: Iterable[int]) -> float:
        chosen = list(rounds)
        beside, alone = ([one for at in chosen for one in side[at]] for side in (busy, quiet))
        return float(np.percentile(beside, 99) / np.percentile(alone, 99))

    drawn = np.random.default_rng(0).integers(len(quiet), size=(_RESAMPLES, len(quiet)))
    return {
        "recommend_p99_ratio": of(range(len(quiet))),
        "recommend_p99_ratio_95": np.percentile([of(one) for one in drawn], [2.5, 97.5]).tolist(),
    }


def _spread(times_ms: list[float]) -> dict[str, float]:
    return {f"p{q}": float(np.percentile(times_ms, q)) for q in (50, 99)}


def _table(result: dict[str, Any], systems: tuple[str, ...]) -> Table:
    table = Table("", title=f"Freshness, {result['items']:,} items")
    names = list(dict.fromkeys(systems))
    for name in names:
        table.add_column(f"{name} ({result[name]['store']})", justify="right")
    for row, unit in (
        ("event_to_page_ms", "event to changed page, ms"),
        ("upsert_to_recommended_ms", "upsert to first recommended, ms"),
        ("delete_to_gone_ms", "delete to last seen, ms"),
        ("recommend_ms", "a page meanwhile, ms"),
        ("recommend_quiet_ms", "a page without events, ms"),
        ("recommend_busy_ms", "a page beside the events, ms"),
    ):
        for q in ("p50", "p99"):
            table.add_row(f"{unit} ({q})", *(f"{result[name][row][q]:.1f}" for name in names))
    for row, what in (
        ("sightings_after_ack", "sightings after the acknowledgement"),
        ("ingest_per_s", "durable events a second"),
        ("ingest_beside_pages_per_s", "events a second beside the pages"),
        ("recommend_p99_ratio", "p99 beside the events / without"),
    ):
        table.add_row(what, *(f"{result[name][row]:,.2f}" for name in names))
    return table


if __name__ == "__main__":
    main()
