"""Fault 28: a flood of events. The queue is bounded, the excess is refused, and pages go on."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from shortlist.client import AsyncClient
from shortlist.config import Config, StoreConfig
from shortlist.errors import ShortlistError
from shortlist.page import PageRequest
from shortlist.stores.sqlite import SqliteStore
from tests.faults.flooder import EVENTS
from tests.orchestrator.live import HeldStore, an_event
from tests.orchestrator.wire import served
from tests.orchestrator.world import a_world

QUEUE = 2000  # events that may wait
PAGES = 150
CONFIG = Config(store=StoreConfig(queue_events=QUEUE))


@pytest.mark.slow
async def test_fault_28_a_flood_is_refused_beyond_the_queue_and_pages_go_on(
    tmp_path: Path, record_fault: Callable[..., None]
) -> None:
    store = SqliteStore(tmp_path / "store.sqlite", CONFIG.store)
    await store.replace_base((), ())
    async with (
        a_world(config=CONFIG, store=store) as world,
        served(world.recommender) as target,
        AsyncClient(target, retries=False) as client,
    ):
        await _pages(client, 30)
        quiet_ms = await _pages(client, PAGES)
        started = time.monotonic()
        async with _flood(target) as flood:
            flooded_ms = await _pages(client, PAGES)
            flood_s = time.monotonic() - started
            counts = await flood()
        kept = [one async for one in store.events(0, await store.head())]
    assert counts["RESOURCE_EXHAUSTED"] > 0
    assert counts.keys() <= {"OK", "accepted", "RESOURCE_EXHAUSTED"}
    assert counts["accepted"] == len(kept) == counts["OK"] * EVENTS
    quiet_p99, flooded_p99 = np.percentile(quiet_ms, 99), np.percentile(flooded_ms, 99)
    # The flood's own process takes half of a small machine: the ratio is shown, not asserted.
    record_fault(
        events_per_s=round(counts["accepted"] / flood_s),
        refused_calls=counts["RESOURCE_EXHAUSTED"],
        quiet_p50_ms=round(float(np.percentile(quiet_ms, 50)), 1),
        quiet_p99_ms=round(float(quiet_p99), 1),
        flooded_p50_ms=round(float(np.percentile(flooded_ms, 50)), 1),
        flooded_p99_ms=round(float(flooded_p99), 1),
        lost=counts["accepted"] - len(kept),
    )


async def test_fault_28_places_of_events_are_not_places_of_pages() -> None:
    """A service whose places are all taken refuses; the other services of the process go on."""
    store = HeldStore()
    async with (
        a_world(store=store) as world,
        served(world.recommender, max_concurrency=4) as target,
        AsyncClient(target, retries=False) as client,
    ):
        stuck = [asyncio.create_task(client.record_events([an_event()])) for _ in range(4)]
        await store.all_wait(4)
        with pytest.raises(ShortlistError) as refused:
            await client.record_events([an_event()])
        pages = [await client.recommend(PageRequest(user_id="ann")) for _ in range(5)]
        assert (await client.get_items(["i1"])).missing_ids == ("i1",)
        store.go.set()
        reports = await asyncio.gather(*stuck)
    assert refused.value.status_name == "RESOURCE_EXHAUSTED"
    assert all(len(page.items) == 20 for page in pages)
    assert sum(one.accepted for one in reports) == 4


async def _pages(client: AsyncClient, count: int) -> list[float]:
    """Milliseconds of each page; every one is complete."""
    took: list[float] = []
    for at in range(count):
        started = time.perf_counter()
        page = await client.recommend(PageRequest(user_id=f"u{at}"))
        took.append(1000 * (time.perf_counter() - started))
        assert len(page.items) == 20
        assert page.degradations == ()
    return took


@asynccontextmanager
async def _flood(target: str) -> AsyncIterator[Callable[[], Awaitable[dict[str, int]]]]:
    """A process that floods `target`; calling what is yielded ends it and says what it sent."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.faults.flooder", target),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None

    async def end() -> dict[str, int]:
        output, _ = await process.communicate(b"\n")
        return json.loads(output)  # type: ignore[no-any-return]

    try:
        assert await process.stdout.readline() == b"flooding\n"
        yield end
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
