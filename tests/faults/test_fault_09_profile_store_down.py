"""Fault 9: the profile store is down. Pages are those for somebody new; what the request itself
excludes still holds, and nothing is acknowledged."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from shortlist.client import AsyncClient
from shortlist.errors import ShortlistError
from shortlist.page import Page, PageRequest, RecentEvent
from shortlist.stores.redis import RedisStore
from shortlist.stores.sqlite import SqliteStore
from tests.orchestrator.live import an_event
from tests.orchestrator.wire import served
from tests.orchestrator.world import World, a_world, item_ids, reasons
from tests.redis_server import RedisServer

REQUEST = PageRequest(
    user_id="ann",
    exclude_item_ids=("i100", "i101"),
    recent_events=(RecentEvent(item_id="i102"),),
    page_size=200,
)
NAMED = {"i100", "i101", "i102"}


@asynccontextmanager
async def a_served_world(
    store: SqliteStore | RedisStore,
) -> AsyncIterator[tuple[World, AsyncClient]]:
    await store.replace_base(a_world().users.items(), ())
    async with (
        a_world(store=store) as world,
        served(world.recommender) as target,
        AsyncClient(target, retries=False) as client,
    ):
        yield world, client


async def pages_without_profiles(client: AsyncClient, count: int = 20) -> list[float]:
    """Milliseconds of each page; every one is as good as can be without a profile."""
    took: list[float] = []
    for _ in range(count):
        started = time.perf_counter()
        page = await client.recommend(REQUEST)
        took.append(1000 * (time.perf_counter() - started))
        check_without_profile(page)
    popular = await client.recommend(PageRequest(user_id="ann"))
    assert popular.cold_start
    assert len(popular.items) == 20
    assert {"popular", "two_tower"} >= {name for item in popular.items for name in item.sources}
    return took


def check_without_profile(page: Page) -> None:
    assert "PROFILE_UNAVAILABLE" in reasons(page)
    assert set(reasons(page)) <= {"PROFILE_UNAVAILABLE", "BEHIND"}
    assert page.coverage.share == 1.0
    assert len(page.items) == 200
    assert not NAMED & set(item_ids(page))


async def test_fault_09_a_sqlite_file_that_cannot_be_read_any_more(
    tmp_path: Path, record_fault: Callable[..., None]
) -> None:
    path = tmp_path / "store.sqlite"
    async with a_served_world(SqliteStore(path)) as (_, client):
        assert not (await client.recommend(REQUEST)).cold_start
    path.write_bytes(b"\xff" * path.stat().st_size)
    async with (
        a_world(store=SqliteStore(path)) as world,
        served(world.recommender) as target,
        AsyncClient(target, retries=False) as client,
    ):
        took = await pages_without_profiles(client)
        with pytest.raises(ShortlistError) as refused:
            await client.record_events([an_event()])
        with pytest.raises(ShortlistError) as unchanged:
            await client.delete_items(["i1"], wait_for_index=True)
    assert refused.value.status_name == unchanged.value.status_name == "UNAVAILABLE"
    record_fault(sqlite_p99_ms=round(float(np.percentile(took, 99)), 1), non_ok=0)


async def test_fault_09_a_sqlite_file_that_is_taken_away_and_comes_back(tmp_path: Path) -> None:
    """A new process finds no store, serves, and takes in events as soon as there is one."""
    path, away = tmp_path / "store.sqlite", tmp_path / "away.sqlite"
    async with a_served_world(SqliteStore(path)):
        pass
    path.rename(away)
    async with a_world(store=SqliteStore(path)) as world:
        check_without_profile(await world.recommender.recommend(REQUEST))
        away.rename(path)
        page = await world.recommender.recommend(REQUEST)
        assert reasons(page) == []
        assert not page.cold_start
        assert (await world.recommender.record_events([an_event()])).accepted == 1


@pytest.mark.slow
async def test_fault_09_a_redis_server_that_is_killed_and_comes_back(
    tmp_path: Path, record_fault: Callable[..., None]
) -> None:
    server = RedisServer(tmp_path / "redis")
    server.start()
    try:
        async with a_served_world(RedisStore(server.url)) as (world, client):
            assert (await client.record_events([an_event("ann", "i150")])).accepted == 1
            before = await client.recommend(REQUEST)
            assert reasons(before) == []
            assert not before.cold_start
            server.kill()
            took = await pages_without_profiles(client)
            with pytest.raises(ShortlistError) as refused:
                await client.record_events([an_event("ann", "i151")])
            assert refused.value.status_name == "UNAVAILABLE"
            server.start()
            recovery_s = await _recovered(world)
            after = await client.recommend(REQUEST)
            assert not {"i150"} & set(item_ids(after))
            assert not after.cold_start
    finally:
        server.stop()
    record_fault(
        redis_p99_ms=round(float(np.percentile(took, 99)), 1),
        non_ok=0,
        recovery_s=round(recovery_s, 2),
        lost=0,
    )


async def _recovered(world: World) -> float:
    """Seconds until a page is complete again."""
    started = time.monotonic()
    while reasons(await world.recommender.recommend(REQUEST)):
        assert time.monotonic() - started < 30
    return time.monotonic() - started
