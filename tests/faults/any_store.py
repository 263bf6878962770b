"""Each kind of store, empty and real, for faults that all of them must withstand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shortlist.config import StoreConfig
from shortlist.live import LiveEvent
from shortlist.stores import Store
from shortlist.stores.memory import MemoryStore
from shortlist.stores.packing import pack_profile
from shortlist.stores.redis import RedisStore
from shortlist.stores.sqlite import SqliteStore
from tests.redis_server import RedisServer

__all__ = ["DURABLE_STORES", "EVERY_STORE", "a_store", "profile_bytes", "replayed"]

_REDIS = pytest.param("redis", marks=pytest.mark.slow)
DURABLE_STORES = ["sqlite", _REDIS]
EVERY_STORE = ["memory", *DURABLE_STORES]


@asynccontextmanager
async def a_store(kind: str, folder: Path, config: StoreConfig) -> AsyncIterator[Store]:
    """Closed in the end; a server that it needs lives as long."""
    if kind == "memory":
        yield MemoryStore(config=config)
        return
    if kind == "sqlite":
        folder.mkdir(parents=True, exist_ok=True)
        sqlite = SqliteStore(folder / "store.sqlite", config)
        await sqlite.append([])
        yield sqlite
        await sqlite.close()
        return
    server = RedisServer(folder / "redis")
    server.start()
    redis = RedisStore(server.url, config)
    yield redis
    await redis.close()
    server.stop()


async def replayed(events: Sequence[LiveEvent], config: StoreConfig) -> MemoryStore:
    """What the trusted store knows after the events, in the order of their times."""
    oracle = MemoryStore(config=config)
    for event in sorted(events, key=lambda event: (event.time_ms, event.event_id)):
        await oracle.append([event])
    return oracle


async def profile_bytes(store: Store, users: Sequence[str]) -> list[bytes]:
    profiles = [await store.get(user) for user in users]
    return [b"" if profile is None else pack_profile(profile) for profile in profiles]
