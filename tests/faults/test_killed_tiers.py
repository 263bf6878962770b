"""Faults 1, 2, 3 and 8: processes of the tiers are killed while pages are asked for."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from benchmarks.live.load import PageLoad
from benchmarks.serving.systems import Running, running
from benchmarks.serving.world import WorldShape, prepare
from shortlist.client import AsyncClient
from shortlist.page import Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

USERS = [f"user-{number:06d}" for number in range(100)]
RATE = 10.0  # pages a second
PAGES = 20  # of each stretch, at least


@dataclass(slots=True)
class Stretch:
    """Pages between two events, and how long each took."""

    pages: list[Page] = field(default_factory=list)
    took_ms: Sequence[float] = ()

    @property
    def lowest_coverage(self) -> float:
        return min(page.coverage.share for page in self.pages)

    @property
    def reasons(self) -> set[str]:
        return {str(one.reason) for page in self.pages for one in page.degradations}


class Watcher:
    """Pages at a steady rate; none may fail or be short."""

    def __init__(self, system: Running, client: AsyncClient) -> None:
        self._system = system
        self._pages: list[Page] = []
        self._load = PageLoad(client, USERS, rate=RATE, watch=self._see)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        async with self._load.running():
            yield
        assert self._load.failures == 0
        assert all(len(page.items) == 20 for page in self._pages)

    async def stretch(self) -> Stretch:
        """The next pages, once those that are under way are answered."""
        await self._answered(round(RATE / 2))
        first, begun = len(self._pages), len(self._load.latencies_ms)
        await self._answered(PAGES)
        return Stretch(self._pages[first:], self._load.latencies_ms[begun:])

    def kill(self, *names: str) -> None:
        for process in self._system.processes:
            if process.name in names:
                os.kill(process.pid, signal.SIGKILL)

    def _see(self, _: float, page: Page) -> None:
        self._pages.append(page)

    async def _answered(self, more: int) -> None:
        async with asyncio.timeout(120):
            wanted = len(self._pages) + more
            while len(self._pages) < wanted:
                await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    prepare(folder, WorldShape(items=3000, users=len(USERS), candidates=300), print)
    return folder


@asynccontextmanager
async def watched(world: Path, *, replicas: int = 1) -> AsyncIterator[Watcher]:
    async with (
        running(world, "distributed", "fast", replicas=replicas, rankers=1) as system,
        AsyncClient(system.target, timeout_s=60) as client,
    ):
        watcher = Watcher(system, client)
        async with watcher.watching():
            yield watcher


async def test_fault_1_a_killed_replica_costs_nothing_but_its_calls(
    world: Path, record_fault: Callable[..., None]
) -> None:
    async with watched(world, replicas=2) as watcher:
        before = await watcher.stretch()
        watcher.kill("retrieval-0-0")
        during = await watcher.stretch()
    assert before.lowest_coverage == during.lowest_coverage == 1.0
    assert before.reasons == during.reasons == set()
    record_fault(**figures(before, during))


async def test_fault_2_a_shard_without_replicas_left_is_missing_and_named(
    world: Path, record_fault: Callable[..., None]
) -> None:
    async with watched(world) as watcher:
        before = await watcher.stretch()
        watcher.kill("retrieval-1-0")
        during = await watcher.stretch()
    assert before.reasons == set()
    # A page that had retrieved when the shard died lacks the cards of its items.
    assert {"SHARD_DOWN"} <= during.reasons <= {"SHARD_DOWN", "CARDS_INCOMPLETE"}
    assert {page.coverage.shards_answered for page in during.pages} == {1}
    assert 0.4 < during.lowest_coverage < 0.6
    record_fault(**figures(before, during))


async def test_fault_3_without_shards_the_popular_items_are_shown(
    world: Path, record_fault: Callable[..., None]
) -> None:
    async with watched(world) as watcher:
        before = await watcher.stretch()
        watcher.kill("retrieval-0-0", "retrieval-1-0")
        during = await watcher.stretch()
    assert before.reasons == set()
    assert "POPULARITY_FALLBACK" in during.reasons
    assert all(page.coverage.shards_answered == 0 for page in during.pages)
    assert during.lowest_coverage == 0
    record_fault(**figures(before, during))


async def test_fault_8_without_a_ranker_the_order_of_retrieval_stays(
    world: Path, record_fault: Callable[..., None]
) -> None:
    async with watched(world) as watcher:
        before = await watcher.stretch()
        watcher.kill("ranking-0")
        during = await watcher.stretch()
    assert before.reasons == set()
    assert during.reasons == {"RANKER_FALLBACK"}
    assert during.lowest_coverage == 1.0
    assert {page.versions.ranking for page in before.pages} == {"fast"}
    record_fault(**figures(before, during))


def figures(before: Stretch, during: Stretch) -> dict[str, float]:
    return {
        "before_p50_ms": round(float(np.percentile(before.took_ms, 50)), 1),
        "during_p50_ms": round(float(np.percentile(during.took_ms, 50)), 1),
        "during_p99_ms": round(float(np.percentile(during.took_ms, 99)), 1),
        "lowest_coverage": round(during.lowest_coverage, 3),
    }
