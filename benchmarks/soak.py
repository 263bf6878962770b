"""`python -m benchmarks.soak`: hours of pages, events and changes, and whether anything grows.

Each process's memory and descriptors are read every few seconds. After a warm-up, in which caches
fill and every user is met, neither may grow by more than two per cent, and no call may fail.

The store's cache of pages fills as its file grows, which takes minutes at the rate of a soak: a
file that is larger than the cache is made first.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # numpy reads it when it is loaded

import click
import numpy as np
from rich.table import Table

from benchmarks.live.load import PageLoad
from benchmarks.serving.systems import KINDS, Process, Running, running
from benchmarks.serving.world import WorldShape, prepare
from shortlist.client import AsyncClient
from shortlist.commands.terminal import Terminal
from shortlist.errors import ShortlistError
from shortlist.feed import RecordedEvent
from shortlist.live import CatalogItem

__all__ = ["Growth", "main"]

MOST_GROWTH = 0.02
_WARM_UP = 0.3  # of the time
_SAMPLES = 200  # of a run, at most one a second
_EVENTS_EVERY_S = 0.5
_EVENTS = 10  # a call
_EVENTS_BEFORE = 50_000  # nearly 20 MB of the store's file
_MOST_EVENTS = 1000  # a call
_CHANGES_EVERY_S = 2.0
_FORM = "fast"


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """Of one figure of one process: medians of the first and the last third after the warm-up."""

    before: float
    after: float
    samples: tuple[float, ...] = ()  # that they are of: whether it crept or took a step

    @property
    def share(self) -> float:
        return self.after / self.before - 1 if self.before else 0.0

    @staticmethod
    def of(samples: Sequence[float]) -> Growth:
        """Of samples at equal distances, from the start on."""
        warm = samples[round(_WARM_UP * len(samples)) :]
        third = max(1, len(warm) // 3)
        return Growth(
            before=float(np.median(warm[:third])),
            after=float(np.median(warm[-third:])),
            samples=tuple(samples),
        )

    def as_object(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "before": self.before,
            "after": self.after,
            "share": self.share,
            "samples": [round(sample, 2) for sample in self.samples],
        }


@dataclass(slots=True, kw_only=True)
class _Errors:
    """What went wrong, by the name of the error."""

    counts: Counter[str] = field(default_factory=Counter)

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        try:
            yield
        except ShortlistError as error:
            self.counts[error.status_name] += 1


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, no table.")
@click.option("--minutes", type=float, default=60.0, show_default=True)
@click.option("--rate", type=float, default=20.0, show_default=True, help="Pages a second.")
@click.option("--items", type=click.IntRange(2000), default=20_000, show_default=True)
@click.option("--users", type=click.IntRange(100), default=1000, show_default=True)
@click.option("--system", "kind", type=click.Choice(KINDS), default="distributed")
@click.option(
    "--workdir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the world here, and use it again; default: a temporary folder.",
)
def main(
    as_json: bool,
    minutes: float,
    rate: float,
    items: int,
    users: int,
    kind: str,
    workdir: Path | None,
) -> None:
    """Run a system for --minutes and say what has grown; exit code 1 if too much has, or failed.

    \b
      python -m benchmarks.soak
      python -m benchmarks.soak --minutes 5 --system embedded --json
    """
    terminal = Terminal(as_json=as_json)
    with terminal.only_json(), contextlib.ExitStack() as stack:
        folder = workdir or Path(stack.enter_context(_temporary()))
        prepare(folder.resolve(), WorldShape(items=items, users=users), terminal.err.print)
        result = asyncio.run(_soak(folder.resolve(), kind, users, 60 * minutes, rate))
    terminal.out.print(_table(result))
    terminal.emit(result)
    if not result["passed"]:
        raise SystemExit(1)


async def _soak(folder: Path, kind: str, users: int, seconds: float, rate: float) -> dict[str, Any]:
    names = [f"user-{number:06d}" for number in range(users)]
    errors = _Errors()
    incomplete = 0

    def watch(_: float, page: Any) -> None:
        nonlocal incomplete
        incomplete += bool(page.degradations) or len(page.items) < 20

    async with (
        running(folder, kind, _FORM, rankers=1) as system,
        AsyncClient(system.target, timeout_s=60, retries=False) as client,
    ):
        for _ in range(_EVENTS_BEFORE // _MOST_EVENTS):
            await _record(client, names, _MOST_EVENTS)
        load = PageLoad(client, names, rate=rate, watch=watch)
        async with load.running(), _background(client, names, errors):
            samples = await _sampled(system, seconds)
    growth = {
        name: {what: Growth.of(values) for what, values in of_process.items()}
        for name, of_process in samples.items()
    }
    worst = max(one.share for of_process in growth.values() for one in of_process.values())
    failed = load.failures + errors.counts.total() + incomplete
    return {
        "seconds": seconds,
        "system": kind,
        "pages": len(load.latencies_ms),
        "page_p99_ms": load.percentile(99),
        "failed_pages": load.failures,
        "incomplete_pages": incomplete,
        "failed_changes": dict(errors.counts),
        "growth": {
            name: {what: one.as_object() for what, one in of_process.items()}
            for name, of_process in growth.items()
        },
        "worst_growth": worst,
        "passed": worst <= MOST_GROWTH and failed == 0,
    }


async def _sampled(system: Running, seconds: float) -> dict[str, dict[str, list[float]]]:
    """By process its memory that is of no file, and its descriptors, at equal distances.

    What is mapped from files is shared, and counts for more whenever somebody else lets it go.
    """
    samples: dict[str, dict[str, list[float]]] = {
        one.name: {"anonymous_mb": [], "descriptors": []} for one in system.processes
    }
    every_s = max(1.0, seconds / _SAMPLES)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        await asyncio.sleep(every_s)
        for one in system.processes:
            samples[one.name]["anonymous_mb"].append(one.memory_mb["anonymous"])
            samples[one.name]["descriptors"].append(_descriptors(one))
    return samples


def _descriptors(process: Process) -> float:
    return float(len(os.listdir(f"/proc/{process.pid}/fd")))


@contextlib.asynccontextmanager
async def _background(
    client: AsyncClient, users: Sequence[str], errors: _Errors
) -> AsyncIterator[None]:
    """Events and changes of the catalogue while the body runs."""
    jobs = [
        _repeat(_EVENTS_EVERY_S, lambda: _record(client, users), errors),
        _repeat(_CHANGES_EVERY_S, lambda: _change(client), errors),
    ]
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _repeat(
    every_s: float, work: Callable[[], Coroutine[Any, Any, None]], errors: _Errors
) -> None:
    while True:
        with errors.counted():
            await work()
        await asyncio.sleep(every_s)


async def _record(client: AsyncClient, users: Sequence[str], events: int = _EVENTS) -> None:
    rng = np.random.default_rng()
    await client.record_events(
        [
            RecordedEvent(
                event_id=uuid.uuid4().hex,
                user_id=users[int(rng.integers(len(users)))],
                item_id=f"item-{int(rng.integers(2000)):08d}",
            )
            for _ in range(events)
        ]
    )


async def _change(client: AsyncClient) -> None:
    """An item comes and goes: what is kept of it must not add up."""
    item = f"passing-{uuid.uuid4().hex}"
    await client.upsert_items(
        [
            CatalogItem(
                id=item,
                title="passing by",
                published_ms=time.time_ns() // 1_000_000,
                attributes={"category": ("category-1",), "price": 3.0},
            )
        ]
    )
    await client.delete_items([item])


@contextlib.contextmanager
def _temporary() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="shortlist-soak-") as folder:
        yield folder


def _table(result: dict[str, Any]) -> Table:
    verdict = "nothing grew, nothing failed" if result["passed"] else "NOT passed"
    table = Table(
        *("process", "what", "before", "after", "growth"),
        title=f"{result['pages']:,} pages in {result['seconds']:.0f} s: {verdict}",
    )
    for name, of_process in result["growth"].items():
        for what, one in of_process.items():
            cells = (f"{one['before']:.1f}", f"{one['after']:.1f}", f"{one['share']:+.2%}")
            table.add_row(name, what, *cells)
    return table


if __name__ == "__main__":
    main()
