from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.event_places import PlaceFinder
from shortlist.live import LiveEvent
from shortlist.places import place_keys
from shortlist.schema import Schema
from shortlist.stores.memory import MemoryStore
from shortlist.tiers import AttributeValue
from tests.contracts.store import a_profile, an_event

SCHEMA = Schema.model_validate(
    {
        "name": "places",
        "interactions": [
            {
                "path": "events.csv",
                "user": "user",
                "item": "item",
                "context": {"where": {"role": "geo"}, "device": {"role": "categorical"}},
            }
        ],
        "users": [
            {
                "path": "users.csv",
                "id": "user",
                "features": {"home": {"role": "geo"}, "age": {"role": "numeric"}},
            }
        ],
    }
)


class CountingStore(MemoryStore):
    """Knows which users it was asked for."""

    def __init__(self, **homes: str) -> None:
        people = {name: a_profile(name, home=home, age=30.0) for name, home in homes.items()}
        super().__init__(people.items())
        self.asked: list[list[str]] = []

    async def attributes_of(self, ids: Sequence[str]) -> list[Mapping[str, AttributeValue]]:
        self.asked.append(list(ids))
        return await super().attributes_of(ids)


async def test_an_event_happened_where_its_context_says_and_where_its_user_lives() -> None:
    places = PlaceFinder(CountingStore(ann="oslo", bob="rome"), SCHEMA)
    found = await places.added(
        [
            an_event(1, "ann", context={"where": "rome", "device": "tv"}),
            an_event(2, "bob", context={"where": "rome"}),
            an_event(3, "eve"),
        ]
    )
    assert [event.places for event in found] == [keys("rome", "oslo"), keys("rome"), ()]
    assert [event.event_id for event in found] == ["e-1", "e-2", "e-3"]


async def test_users_of_a_batch_are_read_at_once_and_not_again_for_a_while() -> None:
    now = [0.0]
    store = CountingStore(ann="oslo", bob="rome")
    places = PlaceFinder(store, SCHEMA, clock=lambda: now[0])
    for _ in range(2):
        found = await places.added([an_event(1, "ann"), an_event(2, "bob"), an_event(3, "ann")])
        assert [event.places for event in found] == [keys("oslo"), keys("rome"), keys("oslo")]
    await places.added([an_event(4, "ann"), an_event(5, "eve")])
    assert store.asked == [["ann", "bob"], ["eve"]]
    await store.replace_base([("ann", a_profile("ann", home="rome"))], [])
    now[0] += 60
    assert [event.places for event in await places.added([an_event(6, "ann")])] == [keys("rome")]


async def test_nobody_is_read_where_the_schema_has_no_places_of_users() -> None:
    store = CountingStore(ann="oslo")
    events: list[LiveEvent] = [an_event(1, "ann", context={"where": "rome"})]
    assert await PlaceFinder(store, None).added(events) == events
    assert store.asked == []


def keys(*places: str) -> tuple[int, ...]:
    return tuple(key for one in places for key in place_keys({"at": one}, ["at"]).tolist())
