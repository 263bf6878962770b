"""Everything in dictionaries: what tests trust, and what needs no durability.

A profile is computed from all events of its user each time it is read: slow, and easy to believe.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

import numpy as np

from shortlist.config import StoreConfig
from shortlist.ids import KeyCollision, key_of, keys_of
from shortlist.live import (
    Appended,
    CatalogItem,
    Changes,
    EventColumns,
    ItemChange,
    LiveEvent,
    StoredEvent,
)
from shortlist.stores import Impressions, Profile, StoreFull, check_profile
from shortlist.stores.packing import check_event, event_details, item_text, json_text
from shortlist.tiers import AttributeValue, History, Keys

__all__ = ["MemoryProfileStore", "MemoryStore"]

_MS_PER_DAY = 86_400_000


class MemoryStore:
    """A `Store` whose life ends with the process."""

    def __init__(
        self,
        profiles: Iterable[tuple[str, Profile]] = (),
        items: Iterable[CatalogItem] = (),
        *,
        config: StoreConfig | None = None,
    ) -> None:
        self._config = config or StoreConfig()
        self._head = 0
        self._events: dict[str, StoredEvent] = {}  # by event id, in the order of the log
        self._of_user: dict[str, list[LiveEvent]] = {}
        self._shown: dict[str, list[tuple[int, int]]] = {}  # (time, key)
        self._items: dict[int, ItemChange] = {}  # by key, changed while serving
        self._forgotten: set[str] = set()
        self._base, self._base_items = _checked(profiles), _by_key(items)

    async def get(self, user_id: str) -> Profile | None:
        base, events = self._base.get(user_id), self._of_user.get(user_id, [])
        if not events and user_id not in self._shown:
            return base
        return self._profile(user_id, base or _nobody(user_id), events)

    async def attributes_of(self, ids: Sequence[str]) -> list[Mapping[str, AttributeValue]]:
        return [self._base[id].attributes if id in self._base else {} for id in ids]

    async def append(self, events: Sequence[LiveEvent]) -> Appended:
        for event in events:
            check_event(event)
            event_details(event)
            key_of(event.item_id)
            key_of(event.user_id)
        if len(events) > self._config.queue_events:
            raise StoreFull(f"{len(events)} events at once are more than store.queue_events")
        duplicates, forgotten = [], []
        for index, event in enumerate(events):
            if event.user_id in self._forgotten:
                forgotten.append(index)
            elif event.event_id in self._events:
                duplicates.append(index)
            else:
                stored = StoredEvent(sequence=self._next(), event=event)
                self._events[event.event_id] = stored
                self._of_user.setdefault(event.user_id, []).append(event)
        return Appended(
            sequence=self._head, duplicates=tuple(duplicates), forgotten=tuple(forgotten)
        )

    async def log_impressions(
        self, user_id: str, keys: Keys, times_ms: int, exposure: Mapping[str, object]
    ) -> None:
        json_text("exposure", dict(exposure))
        if user_id not in self._forgotten and len(keys):
            shown = self._shown.setdefault(user_id, [])
            shown.extend((times_ms, key) for key in keys.tolist())

    async def upsert_items(self, items: Sequence[CatalogItem]) -> int:
        fresh = _by_key(items)
        for key, item in fresh.items():
            known = self._item(key)
            if known is not None and known.id != item.id:
                raise KeyCollision(known.id, item.id, key)
        for key, item in fresh.items():
            self._items[key] = ItemChange(sequence=self._next(), key=key, item=item)
        return self._head

    async def delete_items(self, ids: Sequence[str]) -> int:
        for key in dict.fromkeys(keys_of(ids).tolist()):
            self._items[key] = ItemChange(sequence=self._next(), key=key, item=None)
        return self._head

    async def get_items(self, ids: Sequence[str]) -> list[CatalogItem | None]:
        found = [self._item(key) for key in keys_of(ids).tolist()]
        return [
            item if item is not None and item.id == id else None
            for id, item in zip(ids, found, strict=True)
        ]

    async def list_items(self, after_key: int, limit: int) -> list[CatalogItem]:
        keys = sorted(key for key in {*self._base_items, *self._items} if key > after_key)
        items = (item for key in keys if (item := self._item(key)) is not None)
        return [item for item, _ in zip(items, range(limit), strict=False)]

    async def forget_users(self, ids: Sequence[str]) -> int:
        gone = set(ids)
        self._forgotten |= gone
        for user_id in gone:
            self._base.pop(user_id, None)
            self._of_user.pop(user_id, None)
            self._shown.pop(user_id, None)
        self._events = {i: e for i, e in self._events.items() if e.event.user_id not in gone}
        return self._next() if gone else self._head

    async def is_forgotten(self, ids: Sequence[str]) -> list[bool]:
        return [user_id in self._forgotten for user_id in ids]

    async def count_forgotten(self) -> int:
        return len(self._forgotten)

    async def head(self) -> int:
        return self._head

    async def changes(self, after: int, limit: int = 10_000) -> Changes:
        events = [e for e in self._events.values() if e.sequence > after]
        items = [c for c in self._items.values() if c.sequence > after]
        numbers = sorted([e.sequence for e in events] + [c.sequence for c in items])
        end = self._head if len(numbers) <= limit else numbers[limit - 1]
        return Changes(
            sequence=max(after, end),
            head=max(after, self._head),
            items=tuple(
                sorted((c for c in items if c.sequence <= end), key=lambda item: item.sequence)
            ),
            events=_columns([e for e in events if e.sequence <= end]),
        )

    async def events(self, after: int, upto: int) -> AsyncIterator[StoredEvent]:
        for event in list(self._events.values()):
            if after < event.sequence <= upto:
                yield event

    async def replace_base(
        self, profiles: Iterable[tuple[str, Profile]], items: Iterable[CatalogItem]
    ) -> None:
        fresh = _checked(profiles)
        self._base_items = _by_key(items)
        self._base = {user: fresh[user] for user in fresh if user not in self._forgotten}

    async def compact(self, now_ms: int | None = None) -> int:
        now = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        oldest = now - int(self._config.retention_days * _MS_PER_DAY)
        kept = {i: e for i, e in self._events.items() if e.event.time_ms >= oldest}
        dropped = len(self._events) - len(kept)
        self._events = kept  # those of a user are kept aside for the profile
        return dropped

    async def close(self) -> None:
        return None

    def _next(self) -> int:
        self._head += 1
        return self._head

    def _item(self, key: int) -> CatalogItem | None:
        change = self._items.get(key)
        return change.item if change else self._base_items.get(key)

    def _profile(self, user_id: str, base: Profile, events: Sequence[LiveEvent]) -> Profile:
        return Profile(
            user_key=key_of(user_id),
            history=self._history(base.history, events),
            seen=self._seen(base, events),
            attributes=base.attributes,
            impressions=self._impressions(base.impressions, self._shown.get(user_id, [])),
            counters=_counters(base, events),
        )

    def _history(self, base: History, events: Sequence[LiveEvent]) -> History:
        live = sorted((e.time_ms, key_of(e.item_id), float(np.float32(e.weight))) for e in events)
        columns = (base.times_ms.tolist(), base.keys.tolist(), base.weights.tolist())
        rows = sorted([*zip(*columns, strict=True), *live], key=lambda row: row[0])
        if live:
            rows = rows[-self._config.history_length :]
        return History(
            keys=np.array([row[1] for row in rows], np.uint64),
            times_ms=np.array([row[0] for row in rows], np.int64),
            weights=np.array([row[2] for row in rows], np.float32),
        )

    def _seen(self, base: Profile, events: Sequence[LiveEvent]) -> Keys:
        if not events:
            return base.seen
        last: dict[int, int] = {}
        for event in events:
            key = key_of(event.item_id)
            last[key] = max(event.time_ms, last.get(key, event.time_ms))
        live = sorted(last, key=lambda key: (last[key], key))[-self._config.seen_length :]
        older = sorted({*base.seen.tolist()} - {*live})
        room = max(0, self._config.seen_length - len(live))
        return np.array(sorted(older[len(older) - min(room, len(older)) :] + live), np.uint64)

    def _impressions(self, base: Impressions, shown: Sequence[tuple[int, int]]) -> Impressions:
        if not shown:
            return base
        columns = (base.times_ms.tolist(), base.keys.tolist())
        rows = sorted([*zip(*columns, strict=True), *shown], key=lambda row: row[0])
        rows = rows[-self._config.impressions :]
        return Impressions(
            keys=np.array([row[1] for row in rows], np.uint64),
            times_ms=np.array([row[0] for row in rows], np.int64),
        )


MemoryProfileStore = MemoryStore


def _nobody(user_id: str) -> Profile:
    return Profile(user_key=key_of(user_id), history=History.empty())


def _counters(base: Profile, events: Sequence[LiveEvent]) -> dict[str, int]:
    counted = Counter(base.counters)
    counted.update(event.event_type for event in events)
    return {name: counted[name] for name in sorted(counted)}


def _checked(profiles: Iterable[tuple[str, Profile]]) -> dict[str, Profile]:
    fresh: dict[str, Profile] = {}
    for user_id, profile in profiles:
        check_profile(user_id, profile)
        fresh[user_id] = profile
    return fresh


def _by_key(items: Iterable[CatalogItem]) -> dict[int, CatalogItem]:
    fresh: dict[int, CatalogItem] = {}
    for item in items:
        item_text(item)
        key = key_of(item.id)
        if key in fresh and fresh[key].id != item.id:
            raise KeyCollision(fresh[key].id, item.id, key)
        fresh[key] = item
    return fresh


def _columns(events: Sequence[StoredEvent]) -> EventColumns:
    rows = [stored.event for stored in events]
    return EventColumns(
        sequences=np.array([stored.sequence for stored in events], np.int64),
        user_keys=keys_of(event.user_id for event in rows),
        item_keys=keys_of(event.item_id for event in rows),
        times_ms=np.array([event.time_ms for event in rows], np.int64),
        weights=np.array([event.weight for event in rows], np.float32),
        values=np.array([np.nan if e.value is None else e.value for e in rows], np.float32),
        places=tuple(event.places for event in rows),
    )
