from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shortlist.config import StoreConfig
from shortlist.ids import keys_of
from shortlist.live import LiveEvent
from shortlist.stores import ProfilesUnavailable, StoreFull
from shortlist.stores.opening import open_store
from shortlist.stores.redis import RedisStore
from tests.contracts.store import (
    START_MS,
    TIGHT,
    StoreContract,
    a_profile,
    all_events,
    an_event,
    assert_same,
)
from tests.redis_server import RedisServer

pytestmark = pytest.mark.slow  # starts servers


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Any]:
    """Starts servers with options of their own."""
    started: list[RedisServer] = []

    def start(*options: str) -> RedisServer:
        started.append(RedisServer(tmp_path / f"redis-{len(started)}", *options))
        started[-1].start()
        return started[-1]

    yield start
    for server in started:
        server.stop()


async def emptied(server: RedisServer, config: StoreConfig) -> AsyncIterator[RedisStore]:
    store = RedisStore(server.url, config)
    await store._redis.flushall()
    yield store
    await store.close()


async def append_all(store: RedisStore, calls: Iterable[list[LiveEvent]]) -> None:
    for call in calls:
        await store.append(call)


class TestRedisStore(StoreContract):
    @pytest.fixture
    async def store(self, server: RedisServer) -> AsyncIterator[RedisStore]:
        async for store in emptied(server, StoreConfig()):
            yield store

    @pytest.fixture
    async def tight(self, server: RedisServer) -> AsyncIterator[RedisStore]:
        async for store in emptied(server, TIGHT):
            yield store


async def test_a_server_that_cannot_be_reached_is_an_unavailable_store() -> None:
    store = RedisStore("redis://127.0.0.1:1/0")
    for call in (store.get("ann"), store.head(), store.append([an_event(1)]), store.changes(0)):
        with pytest.raises(ProfilesUnavailable):
            await call
    await store.close()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (("--appendonly", "no"), "appendonly"),
        (("--appendfsync", "everysec"), "appendfsync"),
        (("--aof-load-truncated", "yes"), "aof-load-truncated"),
        (("--maxmemory-policy", "allkeys-lru"), "maxmemory-policy"),
    ],
)
async def test_a_server_that_may_lose_what_it_acknowledged_is_refused(
    own: Any, options: tuple[str, ...], name: str
) -> None:
    store = RedisStore(own(*options).url)
    with pytest.raises(ProfilesUnavailable, match=name):
        await store.append([an_event(1)])
    await store.close()


async def test_a_server_without_memory_is_full_and_still_answers(own: Any) -> None:
    store = RedisStore(own("--maxmemory", "3mb").url)
    calls = (
        [an_event(start + n, attribution={"x": "y" * 300}) for n in range(100)]
        for start in range(0, 1_000_000, 100)
    )
    with pytest.raises(StoreFull):
        await append_all(store, calls)
    acknowledged = len(await all_events(store))
    assert acknowledged > 0
    assert await store.head() == acknowledged
    assert acknowledged % 100 == 0
    assert await store.get("ann") is not None
    await store.close()


async def test_a_server_without_memory_can_still_forget(own: Any) -> None:
    store = RedisStore(own().url)
    await store.append([an_event(n) for n in range(50)])
    await store._redis.config_set("maxmemory", "100kb")  # it has more when it is empty
    with pytest.raises(StoreFull):
        await store.delete_items(["a"])
    assert await store.head() == 50
    await store.forget_users(["ann"])
    assert await store.get("ann") is None
    assert await store.is_forgotten(["ann"]) == [True]
    assert await all_events(store) == []
    await store.close()


async def test_a_server_that_was_started_anew_is_found_again(own: Any) -> None:
    server = own()
    store = open_store(StoreConfig(url=server.url), Path())
    await asyncio.gather(*(store.append([an_event(n)]) for n in range(5)))
    server.kill()
    with pytest.raises(ProfilesUnavailable):
        await store.get("ann")
    server.start()
    assert (await store.append([an_event(5)])).sequence == 6
    await asyncio.gather(*(store.append([an_event(n)]) for n in range(6, 9)))
    assert await store.head() == 9
    await store.close()


async def test_two_replicas_that_fold_the_same_user_lose_nothing(server: RedisServer) -> None:
    async for one in emptied(server, StoreConfig()):
        other = RedisStore(server.url)
        stores = [one, other]
        await asyncio.gather(*(stores[n % 2].append([an_event(n)]) for n in range(300)))
        for n in range(80):
            await stores[n % 2].log_impressions("ann", keys_of([f"i{n}"]), START_MS + n, {})
        found = await one.get("ann")
        assert_same(await other.get("ann"), found)
        assert found is not None
        assert (len(found.history), found.counters) == (300, {"click": 300})
        assert found.impressions.times_ms.tolist() == [START_MS + n for n in range(80)]
        await other.close()


async def test_an_import_is_seen_by_every_replica(server: RedisServer) -> None:
    async for one in emptied(server, StoreConfig()):
        other = RedisStore(server.url)
        assert await other.get("ann") is None
        await one.replace_base([("ann", a_profile("ann"))], [])
        assert_same(await other.get("ann"), a_profile("ann"))
        await other.close()


async def test_what_is_old_is_dropped_once_a_day_by_one_of_all_replicas(own: Any) -> None:
    url = own().url
    now_s = START_MS / 1000 + 86_400 * (StoreConfig().retention_days + 1)
    one, other = (RedisStore(url, clock=lambda: now_s) for _ in range(2))
    for number in range(5):
        await one.log_impressions("ann", keys_of(["a"]), START_MS + number, {})
    await one.append([an_event(n) for n in range(100)])
    one._tidy_at = other._tidy_at = 0  # an hour is over
    await one.append([an_event(100)])
    while await one.head() and (await all_events(one) or await _pages(one)):
        await asyncio.sleep(0.02)
    await other.append([an_event(101)])
    assert other._tidying is not None
    await other._tidying
    assert len(await all_events(other)) == 1  # another day has not gone by
    found = await other.get("ann")
    assert found is not None
    assert (len(found.impressions.keys), found.counters) == (5, {"click": 102})
    await one.close()
    await other.close()


async def _pages(store: RedisStore) -> int:
    return int(await store._redis.xlen("{shortlist}:exposures"))
