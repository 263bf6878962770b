"""A `World` whose shards follow the log of a store, and a store to break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count

from shortlist.config import Config
from shortlist.feed import EventBatch, RecordedEvent
from shortlist.live import Appended, LiveEvent
from shortlist.stores import Profile, ProfilesUnavailable, StoreFull
from shortlist.stores.memory import MemoryStore
from shortlist.tiers import AttributeValue
from tests.orchestrator.world import World, a_world

_numbers = count()


class BreakableStore(MemoryStore):
    """A memory store that can be taken away, filled up, or held up."""

    down = False
    full = False
    appends: int = 0

    async def get(self, user_id: str) -> Profile | None:
        self._check()
        return await super().get(user_id)

    async def attributes_of(self, ids: Sequence[str]) -> list[Mapping[str, AttributeValue]]:
        self._check()
        return await super().attributes_of(ids)

    async def head(self) -> int:
        self._check()
        return await super().head()

    async def append(self, events: Sequence[LiveEvent]) -> Appended:
        self._check()
        if self.full:
            raise StoreFull("the disk is full")
        self.appends += 1
        return await super().append(events)

    async def log_impressions(self, *arguments: object) -> None:
        self._check()
        await super().log_impressions(*arguments)  # type: ignore[arg-type]

    def _check(self) -> None:
        if self.down:
            raise ProfilesUnavailable("the store is away")


class HeldStore(MemoryStore):
    """Appends nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.waiting = 0  # events
        self.most_waiting = 0

    async def append(self, events: Sequence[LiveEvent]) -> Appended:
        self.waiting += len(events)
        self.most_waiting = max(self.most_waiting, self.waiting)
        await self.go.wait()
        self.waiting -= len(events)
        return await super().append(events)

    async def all_wait(self, events: int) -> None:
        """Return when so many events wait."""
        async with asyncio.timeout(10):
            while self.waiting < events:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def a_live_world(
    *, shards: int = 2, replicas: int = 1, config: Config | None = None, following: bool = True
) -> AsyncIterator[tuple[World, BreakableStore]]:
    """Ann and bob are in the store already. Shards that are not `following` know nothing of the
    log, and say so. `world.shards` has the replicas of a shard side by side."""
    store = BreakableStore(a_world().users.items())
    async with a_world(shards=shards, replicas=replicas, config=config, store=store) as world:
        for shard in world.shards:
            shard.log = store if following else None
        yield world, store


def an_event(user_id: str = "ann", item_id: str = "i7", **fields: object) -> RecordedEvent:
    """With an id of its own unless one is given."""
    fields.setdefault("event_id", f"event-{next(_numbers)}")
    return RecordedEvent(user_id=user_id, item_id=item_id, **fields)  # type: ignore[arg-type]


def a_batch(sequence: int, *events: RecordedEvent) -> EventBatch:
    return EventBatch(sequence=sequence, events=events)
