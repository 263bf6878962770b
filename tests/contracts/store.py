"""What every `Store` does. A store's test inherits this and supplies `store` and `tight`.

The oracle is `MemoryStore`, which computes each profile anew from all events.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist.config import StoreConfig
from shortlist.errors import InvalidField, InvalidRequest
from shortlist.ids import key_of, keys_of
from shortlist.live import CatalogItem, LiveEvent, StoredEvent
from shortlist.stores import Profile, Store, StoreFull
from shortlist.stores.memory import MemoryStore
from shortlist.stores.opening import open_store
from shortlist.tiers import AttributeValue, History

START_MS = 1_700_000_000_000
DAY_MS = 86_400_000
# Small bounds, so that tests reach them.
TIGHT = StoreConfig(history_length=40, seen_length=25, impressions=30, queue_events=500)


def a_profile(
    user_id: str, items: Iterable[str] = ("a", "b"), **attributes: AttributeValue
) -> Profile:
    keys = keys_of(items)
    history = History(
        keys=keys,
        times_ms=np.arange(len(keys), dtype=np.int64) + 1_500_000_000_000,
        weights=np.linspace(0, 1, len(keys), dtype=np.float32),
    )
    seen = np.concatenate([keys, keys_of(["long-ago"])])
    return Profile(user_key=key_of(user_id), history=history, seen=seen, attributes=attributes)


def an_event(number: int, user: str = "ann", item: str | None = None, **changes: Any) -> LiveEvent:
    event = LiveEvent(
        event_id=f"e-{number}",
        user_id=user,
        item_id=item or f"item-{number % 7}",
        event_type="click",
        time_ms=START_MS + number * 1000,
        weight=0.5,
    )
    return replace(event, **changes)


def many_events(count: int, seed: int, users: Sequence[str] = ("ann", "bob")) -> list[LiveEvent]:
    """Events with times that repeat, several types, and some details."""
    chance = random.Random(seed)
    return [
        an_event(
            number,
            user=chance.choice(users),
            item=f"item-{chance.randrange(60)}",
            time_ms=START_MS + chance.randrange(count) * 1000,
            event_type=chance.choice(["click", "like", "purchase"]),
            weight=chance.choice([0.0, 0.1, 1.0]),
            value=chance.choice([None, 4.5]),
            places=(key_of("is"), 2**64 - 1) if number % 5 == 0 else (),
        )
        for number in range(count)
    ]


def assert_same(found: Profile | None, expected: Profile | None) -> None:
    """Byte by byte."""
    assert found is not None
    assert expected is not None
    assert found.user_key == expected.user_key
    for column in ("keys", "times_ms", "weights"):
        mine, theirs = getattr(found.history, column), getattr(expected.history, column)
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(found.seen, expected.seen)
    np.testing.assert_array_equal(found.impressions.keys, expected.impressions.keys)
    np.testing.assert_array_equal(found.impressions.times_ms, expected.impressions.times_ms)
    assert dict(found.attributes) == dict(expected.attributes)
    assert list(found.counters.items()) == list(expected.counters.items())


def write_store(workdir: Path, profiles: Iterable[tuple[str, Profile]]) -> None:
    """The store of a workdir whose import said this. Not for a running event loop."""

    async def write() -> None:
        store = open_store(StoreConfig(), workdir)
        await store.replace_base(profiles, [])
        await store.close()

    asyncio.run(write())


async def all_events(store: Store) -> list[StoredEvent]:
    return [event async for event in store.events(0, await store.head())]


async def all_items(store: Store, limit: int = 3) -> list[CatalogItem]:
    found: list[CatalogItem] = []
    after = -1
    while page := await store.list_items(after, limit):
        found += page
        after = key_of(page[-1].id)
    return found


class StoreContract:
    @pytest.fixture
    async def store(self) -> Any:
        """An empty one, of the default bounds."""
        raise NotImplementedError

    @pytest.fixture
    async def tight(self) -> Any:
        """An empty one, of `TIGHT` bounds."""
        raise NotImplementedError

    # --- profiles of an import

    async def test_an_imported_profile_is_read_back(self, store: Store) -> None:
        profile = a_profile("ann", country="is", age=41.5, tags=("jazz", "è"))
        await store.replace_base([("ann", profile)], [])
        assert_same(await store.get("ann"), profile)
        assert await store.get("bob") is None
        assert await store.get("") is None

    async def test_attributes_of_many_users_are_read_at_once(self, store: Store) -> None:
        assert await store.attributes_of(["ann"]) == [{}]
        ann = a_profile("ann", country="no", langs=("nb", "en"), age=30.5)
        await store.replace_base([("ann", ann), ("bob", a_profile("bob"))], [])
        await store.append([an_event(1, user="eve")])
        found = await store.attributes_of(["eve", "ann", "bob", "nobody", "ann"])
        assert found == [{}, ann.attributes, {}, {}, ann.attributes]
        await store.forget_users(["ann"])
        assert await store.attributes_of(["ann"]) == [{}]
        assert await store.attributes_of([]) == []

    async def test_an_empty_profile_is_still_a_profile(self, store: Store) -> None:
        empty = Profile(user_key=key_of("ann"), history=History.empty())
        await store.replace_base([("ann", empty)], [])
        assert_same(await store.get("ann"), empty)

    async def test_a_second_import_replaces_the_first(self, store: Store) -> None:
        await store.replace_base([("ann", a_profile("ann"))], [CatalogItem(id="old")])
        await store.replace_base([("bob", a_profile("bob"))], [CatalogItem(id="new")])
        assert await store.get("ann") is None
        assert_same(await store.get("bob"), a_profile("bob"))
        assert await all_items(store) == [CatalogItem(id="new")]

    async def test_generators_of_many_are_imported(self, store: Store) -> None:
        users = [f"user-{n}" for n in range(1200)]
        await store.replace_base(
            ((user, a_profile(user)) for user in users),
            (CatalogItem(id=f"item-{n}") for n in range(1100)),
        )
        assert_same(await store.get("user-1199"), a_profile("user-1199"))
        assert len(await all_items(store, 500)) == 1100

    async def test_a_profile_under_a_wrong_id_is_refused_and_the_old_import_stays(
        self, store: Store
    ) -> None:
        await store.replace_base([("old", a_profile("old"))], [])
        with pytest.raises(InvalidField, match="bob") as refused:
            await store.replace_base(
                [("ann", a_profile("ann")), ("bob", a_profile("ann"))], [CatalogItem(id="new")]
            )
        assert refused.value.field == "user_key"
        assert await store.get("ann") is None
        assert_same(await store.get("old"), a_profile("old"))
        assert await all_items(store) == []

    async def test_history_columns_of_different_lengths_are_refused(self, store: Store) -> None:
        good = a_profile("ann").history
        bad = History(keys=good.keys, times_ms=good.times_ms[:1], weights=good.weights)
        with pytest.raises(InvalidField, match="length"):
            await store.replace_base([("ann", Profile(user_key=key_of("ann"), history=bad))], [])

    # --- events

    async def test_the_next_read_knows_an_appended_event(self, store: Store) -> None:
        answer = await store.append([an_event(1, item="x", weight=0.25)])
        assert (answer.sequence, answer.duplicates, answer.forgotten) == (1, (), ())
        found = await store.get("ann")
        assert found is not None
        assert found.history.keys.tolist() == [key_of("x")]
        assert found.history.times_ms.tolist() == [START_MS + 1000]
        assert found.history.weights.tolist() == [0.25]
        assert found.seen.tolist() == [key_of("x")]
        assert found.counters == {"click": 1}

    async def test_numbers_go_up_by_one_event(self, store: Store) -> None:
        assert await store.append([]) is not None
        assert (await store.append([an_event(1), an_event(2)])).sequence == 2
        assert (await store.append([an_event(3)])).sequence == 3
        assert await store.head() == 3

    async def test_a_known_event_id_changes_nothing(self, store: Store) -> None:
        await store.append([an_event(1)])
        before = await store.get("ann")
        again = await store.append([an_event(1, item="other"), an_event(2), an_event(2)])
        assert again.duplicates == (0, 2)
        assert again.sequence == 2
        await store.append([an_event(2, user="bob")])
        assert await store.get("bob") is None
        assert [stored.event for stored in await all_events(store)] == [an_event(1), an_event(2)]
        assert before is not None
        found = await store.get("ann")
        assert found is not None
        assert len(found.history) == 2

    async def test_calls_at_the_same_time_are_each_answered_rightly(self, store: Store) -> None:
        answers = await asyncio.gather(
            *(store.append([an_event(n), an_event(n + 1)]) for n in range(60))
        )
        assert sum(len(answer.duplicates) for answer in answers) == 59
        assert max(answer.sequence for answer in answers) == 61 == await store.head()
        assert {stored.event.event_id for stored in await all_events(store)} == {
            f"e-{n}" for n in range(61)
        }

    async def test_an_event_is_read_back_whole(self, store: Store) -> None:
        event = an_event(
            1,
            user="ann ☃",
            value=4.75,
            context={"device": "tv", "hour": 21.0, "tags": ("a", "b")},
            places=(0, 5, 2**64 - 1),
            attribution={"position": 3, "arm": "b", "sources": ["mf"]},
            time_ms=1,
        )
        await store.append([event])
        (stored,) = await all_events(store)
        assert stored == StoredEvent(sequence=1, event=event)

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"event_id": ""}, "event_id"),
            ({"user_id": ""}, "id"),
            ({"item_id": ""}, "id"),
            ({"weight": float("nan")}, "weight"),
            ({"value": float("inf")}, "value"),
            ({"time_ms": 2**63}, "time_ms"),
            ({"context": {"x": float("nan")}}, "context"),
        ],
    )
    async def test_one_bad_event_refuses_its_whole_call(
        self, store: Store, changes: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(InvalidRequest) as refused:
            await store.append([an_event(1), an_event(2, **changes)])
        assert refused.value.violations[0][0] == field
        await store.append([an_event(3)])
        assert [stored.event.event_id for stored in await all_events(store)] == ["e-3"]

    @pytest.mark.parametrize("seed", range(3))
    async def test_profiles_equal_those_of_a_sorted_replay(self, tight: Store, seed: int) -> None:
        events = many_events(300, seed)
        oracle = MemoryStore(config=TIGHT)
        await oracle.append(sorted(events, key=lambda event: event.time_ms))
        at = 0
        while at < len(events):
            size = random.Random(at + seed).randrange(1, 20)
            await tight.append(events[at : at + size])
            at += size
        for user in ("ann", "bob"):
            assert_same(await tight.get(user), await oracle.get(user))

    async def test_what_is_live_lies_over_what_was_imported(self, tight: Store) -> None:
        oracle = MemoryStore(config=TIGHT)
        base = [("ann", a_profile("ann", [f"item-{n}" for n in range(20)], country="is"))]
        for store in (tight, oracle):
            await store.replace_base(base, [])
            await store.append([an_event(n, item=f"item-{n}") for n in range(10, 70)])
            await store.log_impressions("ann", keys_of(["s", "t"]), START_MS, {"request": "r"})
        assert_same(await tight.get("ann"), await oracle.get("ann"))
        newer = [("ann", a_profile("ann", ["z"], country="no"))]
        for store in (tight, oracle):
            await store.replace_base(newer, [])
        found = await tight.get("ann")
        assert_same(found, await oracle.get("ann"))
        assert found is not None
        assert found.attributes == {"country": "no"}

    async def test_more_than_may_wait_is_refused_and_leaves_nothing(self, tight: Store) -> None:
        with pytest.raises(StoreFull, match="queue_events"):
            await tight.append([an_event(n) for n in range(TIGHT.queue_events + 1)])
        assert await tight.head() == 0
        await tight.append([an_event(1)])
        assert await tight.head() == 1

    async def test_a_reader_sees_all_of_a_call_or_nothing(self, store: Store) -> None:
        done = False
        seen = set()

        async def read() -> None:
            while not done:
                found = await store.get("ann")
                seen.add(0 if found is None else len(found.history))
                await asyncio.sleep(0)

        reading = asyncio.create_task(read())
        for call in range(8):
            await store.append([an_event(call * 25 + n) for n in range(25)])
            await asyncio.sleep(0)
        done = True
        await reading
        assert {count % 25 for count in seen} == {0}

    # --- impressions

    async def test_impressions_are_kept_by_time_and_bounded(self, tight: Store) -> None:
        oracle = MemoryStore(config=TIGHT)
        for page in (3, 1, 2, 9, 5):
            keys = keys_of(f"item-{page}-{n}" for n in range(9))
            for store in (tight, oracle):
                await store.log_impressions("ann", keys, START_MS + page, {"page": page})
        found = await tight.get("ann")
        assert_same(found, await oracle.get("ann"))
        assert found is not None
        assert len(found.impressions.keys) == TIGHT.impressions
        assert len(found.history) == 0
        assert await tight.head() == 0

    # --- the catalogue

    async def test_items_are_added_replaced_and_removed(self, store: Store) -> None:
        item = CatalogItem(
            id="é",
            title="T",
            attributes={"year": 1999.0, "genres": ("a", "b"), "lang": "is"},
            published_ms=5,
            expires_ms=6,
            hidden=True,
        )
        assert await store.upsert_items([item, CatalogItem(id="b")]) == 2
        assert await store.get_items(["b", "é", "none"]) == [CatalogItem(id="b"), item, None]
        assert await store.upsert_items([replace(item, title="U")]) == 3
        assert await store.delete_items(["b", "never-there"]) == 5
        assert await store.get_items(["b", "é"]) == [None, replace(item, title="U")]
        assert await all_items(store) == [replace(item, title="U")]

    async def test_items_are_listed_by_key(self, store: Store) -> None:
        ids = [f"item-{n}" for n in range(40)]
        assert {key_of(id) >= 2**63 for id in ids} == {True, False}
        await store.replace_base([], [CatalogItem(id=id, title="old") for id in ids[:25]])
        await store.upsert_items([CatalogItem(id=id, title="new") for id in ids[20:]])
        await store.delete_items(ids[:5])
        expected = sorted(ids[5:], key=key_of)
        for limit in (1, 7, 100):
            found = await all_items(store, limit)
            assert [item.id for item in found] == expected
        assert {item.id for item in found if item.title == "new"} == set(ids[20:])
        assert await store.list_items(2**64 - 1, 10) == []

    async def test_changes_outlive_an_import(self, store: Store) -> None:
        await store.replace_base([], [CatalogItem(id="a", title="1"), CatalogItem(id="b")])
        await store.upsert_items([CatalogItem(id="a", title="2")])
        await store.delete_items(["b"])
        await store.append([an_event(1)])
        await store.replace_base([], [CatalogItem(id=id, title="3") for id in ("a", "b", "c")])
        assert sorted((i.id, i.title) for i in await all_items(store)) == [("a", "2"), ("c", "3")]
        assert await store.head() == 3
        assert len(await all_events(store)) == 1
        assert await store.get("ann") is not None

    async def test_an_item_that_cannot_be_stored_refuses_its_call(self, store: Store) -> None:
        bad = CatalogItem(id="bad", attributes={"x": float("nan")})
        with pytest.raises(InvalidField):
            await store.upsert_items([CatalogItem(id="good"), bad])
        with pytest.raises(InvalidField):
            await store.upsert_items([CatalogItem(id="good"), CatalogItem(id="")])
        assert await all_items(store) == []
        assert await store.head() == 0

    async def test_an_item_twice_in_a_call_is_its_last_state(self, store: Store) -> None:
        await store.upsert_items([CatalogItem(id="a", title="1"), CatalogItem(id="a", title="2")])
        assert await store.get_items(["a"]) == [CatalogItem(id="a", title="2")]

    # --- the log

    async def test_an_empty_log(self, store: Store) -> None:
        await store.append([])
        found = await store.changes(0)
        assert (found.sequence, found.head, found.items, len(found.events)) == (0, 0, (), 0)
        assert await store.head() == 0

    async def test_changes_tell_all_that_happened_after_a_number(self, store: Store) -> None:
        await store.append([an_event(1, value=2.5, places=(7, 2**64 - 1)), an_event(2)])
        await store.upsert_items([CatalogItem(id="a")])
        await store.delete_items(["b"])
        await store.append([an_event(3, user="bob", item="x", weight=0.25)])
        found = await store.changes(1)
        assert (found.sequence, found.head) == (5, 5)
        assert found.events.sequences.tolist() == [2, 5]
        assert found.events.user_keys.tolist() == [key_of("ann"), key_of("bob")]
        assert found.events.item_keys.tolist() == [key_of("item-2"), key_of("x")]
        assert found.events.times_ms.tolist() == [START_MS + 2000, START_MS + 3000]
        assert found.events.weights.tolist() == [0.5, 0.25]
        assert [(c.sequence, c.key, c.item) for c in found.items] == [
            (3, key_of("a"), CatalogItem(id="a")),
            (4, key_of("b"), None),
        ]
        first = (await store.changes(0)).events
        assert first.values.tolist()[0] == 2.5
        assert np.isnan(first.values[1])
        assert list(first.places) == [(7, 2**64 - 1), (), ()]
        for column, type_ in (
            (first.sequences, np.int64),
            (first.user_keys, np.uint64),
            (first.item_keys, np.uint64),
            (first.weights, np.float32),
            (first.values, np.float32),
        ):
            assert column.dtype == type_

    async def test_only_the_newest_state_of_an_item_is_told(self, store: Store) -> None:
        for title in ("1", "2", "3"):
            await store.upsert_items([CatalogItem(id="a", title=title), CatalogItem(id="b")])
        found = await store.changes(0)
        assert [(c.sequence, c.item and c.item.id) for c in found.items] == [(5, "a"), (6, "b")]

    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 20, 21, 100])
    async def test_a_log_read_in_pieces_loses_nothing(self, store: Store, limit: int) -> None:
        for n in range(5):
            await store.append([an_event(2 * n), an_event(2 * n + 1)])
            await store.upsert_items([CatalogItem(id=f"item-{n}")])
            await store.delete_items([f"item-{n - 3}", f"gone-{n}"])
        numbers: list[int] = []
        position = 0
        while True:
            piece = await store.changes(position, limit)
            mine = [*piece.events.sequences.tolist(), *(item.sequence for item in piece.items)]
            assert len(mine) <= limit
            assert all(position < number <= piece.sequence for number in mine)
            numbers += mine
            assert piece.sequence > position
            position = piece.sequence
            if piece.sequence == piece.head:
                break
        assert position == await store.head()
        whole = await store.changes(0)
        expected = [*whole.events.sequences.tolist(), *(item.sequence for item in whole.items)]
        assert sorted(numbers) == sorted(expected)
        assert len(numbers) == len(set(numbers))

    async def test_events_are_read_between_two_numbers(self, store: Store) -> None:
        await store.append([an_event(n) for n in range(1, 11)])
        found = [stored async for stored in store.events(3, 7)]
        assert [stored.sequence for stored in found] == [4, 5, 6, 7]
        assert [stored.event.event_id for stored in found] == ["e-4", "e-5", "e-6", "e-7"]

    async def test_a_long_log_is_read_to_its_end(self, store: Store) -> None:
        for start in range(0, 2500, 500):
            await store.append([an_event(start + n) for n in range(500)])
        assert [stored.sequence for stored in await all_events(store)] == list(range(1, 2501))

    # --- what is old

    async def test_old_events_leave_the_log_and_stay_in_profiles(self, tight: Any) -> None:
        oracle = MemoryStore(config=TIGHT)
        events = [an_event(n, time_ms=START_MS + (n % 5) * DAY_MS) for n in range(100)]
        for store in (tight, oracle):
            await store.append(events[:50])
            await store.append(events[50:])
        now = START_MS + 2 * DAY_MS + int(TIGHT.retention_days * DAY_MS)
        assert await tight.compact(now) == 40
        assert {s.event.time_ms for s in await all_events(tight)} == {
            START_MS + day * DAY_MS for day in (2, 3, 4)
        }
        await tight.append([an_event(200)])
        await oracle.append([an_event(200)])
        assert_same(await tight.get("ann"), await oracle.get("ann"))
        assert await tight.head() == 101

    async def test_what_was_dropped_is_dropped_once(self, tight: Store) -> None:
        assert await tight.compact() == 0
        await tight.append([an_event(n, time_ms=START_MS + (n % 2) * DAY_MS) for n in range(500)])
        now = START_MS + DAY_MS // 2 + int(TIGHT.retention_days * DAY_MS)
        assert await tight.compact(START_MS) == 0
        assert await tight.compact(now) == 250
        assert await tight.compact(now) == 0
        assert len(await all_events(tight)) == 250

    async def test_an_event_id_is_known_as_long_as_its_event_is_in_the_log(
        self, tight: Store
    ) -> None:
        await tight.append([an_event(1), an_event(2, time_ms=START_MS + 9 * DAY_MS)])
        await tight.compact(START_MS + DAY_MS + int(TIGHT.retention_days * DAY_MS))
        answer = await tight.append([an_event(1), an_event(2)])
        assert answer.duplicates == (1,)

    async def test_users_are_forgotten_whose_events_have_left_the_log(self, tight: Store) -> None:
        users = ["ann", "bob"]
        await tight.append([an_event(n, user=users[n % 2]) for n in range(100)])
        await tight.log_impressions("ann", keys_of(["a"]), START_MS, {"user": "ann"})
        await tight.compact(START_MS + DAY_MS + int(TIGHT.retention_days * DAY_MS))
        assert await all_events(tight) == []
        assert await tight.get("ann") is not None
        await tight.forget_users(["ann"])
        assert await tight.get("ann") is None
        found = await tight.get("bob")
        assert found is not None
        assert found.counters == {"click": 50}

    async def test_what_is_kept_of_a_user_is_bounded_and_the_newest(self, tight: Store) -> None:
        for start in range(0, 400, 100):
            await tight.append([an_event(n, item=f"i{n}") for n in range(start, start + 100)])
        for page in range(20):
            keys = keys_of(f"p{page}-{n}" for n in range(4))
            await tight.log_impressions("ann", keys, START_MS + page, {})
        found = await tight.get("ann")
        assert found is not None
        newest = [key_of(f"i{n}") for n in range(400)]
        assert found.history.keys.tolist() == newest[-TIGHT.history_length :]
        assert set(found.seen.tolist()) == set(newest[-TIGHT.seen_length :])
        assert len(found.impressions.keys) == TIGHT.impressions
        assert found.impressions.times_ms.min() >= START_MS + 20 - 1 - TIGHT.impressions // 4
        assert found.counters == {"click": 400}

    # --- privacy

    async def test_a_forgotten_user_is_gone_and_stays_gone(self, store: Store) -> None:
        await store.replace_base([("ann", a_profile("ann")), ("bob", a_profile("bob"))], [])
        await store.append([an_event(n, user=u) for n, u in enumerate(["ann", "bob"] * 40)])
        await store.log_impressions("ann", keys_of(["a"]), START_MS, {"user": "ann"})
        assert await store.is_forgotten(["ann", "bob"]) == [False, False]
        assert await store.count_forgotten() == 0
        assert await store.forget_users(["ann", "never-seen"]) == 81
        assert await store.is_forgotten(["ann", "bob", "never-seen"]) == [True, False, True]
        assert await store.count_forgotten() == 2
        assert await store.get("ann") is None
        assert {stored.event.user_id for stored in await all_events(store)} == {"bob"}

        answer = await store.append([an_event(0), an_event(1000), an_event(1001, user="bob")])
        assert answer.forgotten == (0, 1)
        assert answer.duplicates == ()
        await store.log_impressions("ann", keys_of(["a"]), START_MS, {})
        await store.replace_base([("ann", a_profile("ann")), ("bob", a_profile("bob"))], [])
        assert await store.get("ann") is None
        found = await store.get("bob")
        assert found is not None
        assert found.counters == {"click": 41}
        assert await store.forget_users([]) == await store.head() == 82
        assert await store.forget_users(["ann"]) == 83  # again, as after an answer that was lost
        assert await store.count_forgotten() == 2

    async def test_closing_twice_is_allowed(self, store: Store) -> None:
        await store.close()
        await store.close()
