"""What becomes of events: durable, in the next page, credited to the page that caused them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from orchestrator import events as intake_module
from orchestrator.events import EventIntake, TooManyStreams
from shortlist.config import Config, StoreConfig
from shortlist.errors import InvalidRequest, NotImplementedYet
from shortlist.feed import Acknowledgement, EventBatch, EventReport
from shortlist.ids import key_of, keys_of
from shortlist.live import LiveEvent
from shortlist.places import place_keys
from shortlist.right_of_way import RightOfWay
from shortlist.schema import Schema
from shortlist.stores import Profile, ProfilesUnavailable, StoreFull
from shortlist.stores.memory import MemoryStore
from shortlist.tiers import History
from tests.orchestrator.live import BreakableStore, HeldStore, a_batch, a_live_world, an_event
from tests.orchestrator.world import NOW_MS, SCHEMA, a_world, item_ids

DAY_MS = 86_400_000


def an_intake(
    store: MemoryStore, *, schema: Schema | None = SCHEMA, config: StoreConfig | None = None
) -> EventIntake:
    return EventIntake(store, schema, config or StoreConfig(), clock=lambda: NOW_MS / 1000)


async def recorded(store: MemoryStore) -> list[LiveEvent]:
    return [one.event async for one in store.events(0, await store.head())]


def refused(report: EventReport | Acknowledgement) -> list[tuple[int, str]]:
    return [(one.index, one.field) for one in report.errors]


async def several(*batches: EventBatch) -> AsyncIterator[EventBatch]:
    for batch in batches:
        yield batch


async def drain(stream: AsyncIterator[Acknowledgement], answers: list[Acknowledgement]) -> None:
    async for one in stream:
        answers.append(one)


# -- one request ----------------------------------------------------------------------------------


async def test_the_very_next_page_knows_the_event() -> None:
    async with a_live_world() as (world, _):
        before = await world.page("somebody new")
        report = await world.recommender.record_events(
            [an_event("somebody new", item_ids(before)[0])]
        )
        after = await world.page("somebody new")
    assert report.accepted == 1
    assert before.cold_start
    assert not after.cold_start
    assert item_ids(before)[0] not in item_ids(after)


async def test_an_event_is_stored_with_what_the_schema_says_of_it() -> None:
    store = MemoryStore()
    await an_intake(store).record(
        [
            an_event("u", "a", event_type="rating", value=4.0, time_ms=5),
            an_event("u", "b", event_type="rating", value=2.0, time_ms=6),
            an_event("u", "c", context={"device": "phone"}),
        ]
    )
    first, second, third = await recorded(store)
    assert (first.event_type, first.weight, first.value, first.time_ms) == ("rating", 2.0, 4.0, 5)
    assert second.weight == 0.0
    assert (third.event_type, third.time_ms) == ("click", NOW_MS)
    assert third.context == {"device": "phone"}


async def test_without_a_schema_every_type_counts_as_one() -> None:
    store = MemoryStore()
    report = await an_intake(store, schema=None).record(
        [an_event("u", "a"), an_event("u", "b", event_type="whatever")]
    )
    assert report.accepted == 2
    assert [(one.event_type, one.weight) for one in await recorded(store)] == [
        ("interaction", 1.0),
        ("whatever", 1.0),
    ]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"event_id": ""}, "event_id"),
        ({"event_id": "e" * 129}, "event_id"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": "u" * 513}, "user_id"),
        ({"item_id": ""}, "event.item_id"),
        ({"item_id": "é" * 257}, "event.item_id"),
        ({"event_type": "purchase"}, "event.event_type"),
        ({"time_ms": -1}, "event.time_ms"),
        ({"value": float("nan")}, "event.value"),
        ({"value": float("inf")}, "event.value"),
        ({"context": {f"c{n}": "x" for n in range(65)}}, "context"),
        ({"context": {"x": float("nan")}}, 'context["x"]'),
        ({"context": {"n" * 65: "x"}}, f'context["{"n" * 64}"]'),
        ({"context": {"x": "y" * 4097}}, 'context["x"]'),
        ({"attribution_token": "nonsense"}, "attribution_token"),
        ({"attribution_token": "A" * 70_000}, "attribution_token"),
    ],
)
async def test_a_wrong_event_is_refused_alone_and_its_field_is_named(
    fields: dict[str, object], path: str
) -> None:
    store = MemoryStore()
    wrong = an_event(**fields)  # type: ignore[arg-type]
    report = await an_intake(store).record([an_event("u", "a"), wrong, an_event("u", "b")])
    assert report.accepted == 2
    assert refused(report) == [(1, f"events[1].{path}")]
    assert len(await recorded(store)) == 2


async def test_an_event_on_an_item_that_nobody_knows_yet_is_kept() -> None:
    async with a_live_world() as (world, store):
        report = await world.recommender.record_events([an_event("new", "item-of-tomorrow")])
        page = await world.page("new")
        assert [one.item_id for one in await recorded(store)] == ["item-of-tomorrow"]
    assert report.accepted == 1
    assert len(page.items) == 20


@pytest.mark.parametrize("events", [0, 10_001])
async def test_a_request_of_none_or_too_many_is_refused_as_a_whole(events: int) -> None:
    store = MemoryStore()
    with pytest.raises(InvalidRequest, match=f"1 to 10000, got {events}"):
        await an_intake(store).record([an_event()] * events)
    assert await store.head() == 0


async def test_the_same_event_again_changes_nothing_and_is_counted() -> None:
    store = MemoryStore()
    intake, event = an_intake(store), an_event("u", "a")
    first = await intake.record([event])
    again = await intake.record([event, an_event("u", "b"), event])
    assert (first.accepted, first.duplicates) == (1, 0)
    assert (again.accepted, again.duplicates) == (1, 2)
    assert again.log_sequence == await store.head() == 2


async def test_events_of_a_deleted_user_are_refused() -> None:
    async with a_live_world() as (world, store):
        await world.recommender.delete_users(["ann"])
        report = await world.recommender.record_events(
            [an_event("bob", "i1"), an_event("ann", "i1"), an_event("bob", "")]
        )
        assert await store.get("ann") is None
    assert report.accepted == 1
    assert refused(report) == [(1, "events[1].user_id"), (2, "events[2].event.item_id")]
    assert "was deleted" in report.errors[0].message


async def test_when_nothing_is_left_to_store_the_answer_still_says_where_the_log_is() -> None:
    store = MemoryStore()
    intake = an_intake(store)
    await intake.record([an_event("u", "a")])
    report = await intake.record([an_event("", "a")])
    assert (report.accepted, report.log_sequence) == (0, 1)


async def test_a_small_lead_of_the_clients_clock_may_be_allowed() -> None:
    store = MemoryStore()
    intake = an_intake(store, config=StoreConfig(max_future_ms=1000))
    report = await intake.record([an_event(time_ms=NOW_MS + 1000), an_event(time_ms=NOW_MS + 1001)])
    assert report.clamped == (1,)
    assert [one.time_ms for one in await recorded(store)] == [NOW_MS + 1000, NOW_MS]


async def test_a_store_that_is_full_or_away_acknowledges_nothing() -> None:
    store = BreakableStore()
    intake, events = an_intake(store), [an_event("u", "a")]
    store.full = True
    with pytest.raises(StoreFull):
        await intake.record(events)
    store.full, store.down = False, True
    with pytest.raises(ProfilesUnavailable):
        await intake.record(events)
    store.down = False
    assert (await intake.record(events)).accepted == 1


async def test_a_process_without_a_store_takes_in_nothing() -> None:
    async with a_world() as world:
        with pytest.raises(NotImplementedYet):
            await world.recommender.record_events([an_event()])
        with pytest.raises(NotImplementedYet):
            await world.recommender.upsert_items([])


async def test_many_events_do_not_hold_up_the_event_loop() -> None:
    """Counted, not timed: others get their turn between every few events."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    other = asyncio.create_task(others())
    report = await an_intake(MemoryStore()).record([an_event("u", f"i{n}") for n in range(640)])
    other.cancel()
    assert report.accepted == 640
    assert turns >= 20


# -- attribution ----------------------------------------------------------------------------------


async def test_an_event_is_tied_to_the_page_that_showed_its_item() -> None:
    async with a_live_world() as (world, store):
        await world.page("ann")
        page = await world.page("ann", page_size=10)
        shown = page.items[3]
        report = await world.recommender.record_events(
            [an_event("ann", shown.id, attribution_token=page.attribution_token)]
        )
        [event] = await recorded(store)
    assert report.accepted == 1
    assert event.attribution == {
        "request_id": page.request_id,
        "shown_ms": NOW_MS,
        "rank": 3,
        "sources": list(shown.sources),
        "retrieval_version": "v1",
        "ranking_version": "r1",
        "ranker": page.versions.ranker,
        "arm": "",
        "release": "",
        "anonymous": False,
    }


async def test_the_rank_counts_over_all_pages_of_a_listing() -> None:
    async with a_live_world() as (world, store):
        first = await world.page("ann")
        second = await world.page("ann", page_token=first.next_page_token)
        await world.recommender.record_events(
            [an_event("ann", second.items[0].id, attribution_token=second.attribution_token)]
        )
        [event] = await recorded(store)
    assert event.attribution["rank"] == 20


async def test_a_page_of_somebody_else_or_without_the_item_is_not_credited() -> None:
    async with a_live_world() as (world, _):
        page = await world.page("ann")
        token = page.attribution_token
        unseen = next(
            one for one in world.catalogue.ids if one not in item_ids(page) and one != "i0"
        )
        report = await world.recommender.record_events(
            [
                an_event("bob", page.items[0].id, attribution_token=token),
                an_event("ann", unseen, attribution_token=token),
                an_event("ann", page.items[0].id, attribution_token=token[:-5] + "AAAAA"),
                an_event("ann", page.items[0].id, attribution_token=page.next_page_token),
            ]
        )
    assert report.accepted == 0
    assert refused(report) == [(n, f"events[{n}].attribution_token") for n in range(4)]
    assert "another user" in report.errors[0].message
    assert unseen in report.errors[1].message


async def test_a_page_for_nobody_may_be_credited_by_whoever_saw_it() -> None:
    async with a_live_world() as (world, _):
        page = await world.page("")
        report = await world.recommender.record_events(
            [an_event("ann", page.items[0].id, attribution_token=page.attribution_token)]
        )
    assert report.accepted == 1


# -- places ---------------------------------------------------------------------------------------


async def test_an_event_happens_where_its_context_and_its_user_are() -> None:
    schema = Schema.of(
        {
            "name": "places",
            "interactions": [{"path": "e.csv", "context": {"city": {"role": "geo"}}}],
            "users": [{"path": "u.csv", "features": {"home": {"role": "geo"}}}],
        }
    )
    ann = Profile(
        user_key=key_of("ann"), history=History.empty(), attributes={"home": "oslo", "age": 3.0}
    )
    store = MemoryStore([("ann", ann)])
    await an_intake(store, schema=schema).record(
        [
            an_event("ann", "a", context={"city": "paris"}),
            an_event("ann", "b"),
            an_event("stranger", "c", context={"city": "paris", "device": "phone"}),
            an_event("ann", "d", context={"city": "oslo"}),
            an_event("stranger", "e"),
        ]
    )
    places = {one.item_id: set(one.places) for one in await recorded(store)}
    oslo, paris = keys_of(["oslo", "paris"]).tolist()
    assert places == {"a": {paris, oslo}, "b": {oslo}, "c": {paris}, "d": {oslo}, "e": set()}
    assert place_keys({"city": "oslo"}, ["city"]).tolist() == [oslo]
    [paris_only] = [one for one in await recorded(store) if one.item_id == "d"]
    assert len(paris_only.places) == 1


# -- the queue ------------------------------------------------------------------------------------


async def test_more_than_may_wait_is_refused_and_the_rest_is_durable() -> None:
    store = HeldStore()
    intake = an_intake(store, config=StoreConfig(queue_events=50))
    calls = [
        asyncio.create_task(intake.record([an_event("u", "a") for _ in range(20)]))
        for _ in range(5)
    ]
    await asyncio.sleep(0.05)
    store.go.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    full = [one for one in results if isinstance(one, StoreFull)]
    assert len(full) == 3
    assert store.most_waiting <= 50
    assert sum(one.accepted for one in results if isinstance(one, EventReport)) == 40
    assert len(await recorded(store)) == 40
    assert (await intake.record([an_event("u", "a")])).accepted == 1


# -- streams --------------------------------------------------------------------------------------


async def test_a_stream_acknowledges_every_batch_in_order() -> None:
    store = MemoryStore()
    batches = [a_batch(n * 10, *(an_event("u", f"i{n}{m}") for m in range(3))) for n in range(1, 8)]
    answers = [one async for one in an_intake(store).stream(several(*batches))]
    numbers = [one.acknowledged_sequence for one in answers]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 70
    assert sum(one.accepted for one in answers) == 21
    assert answers[-1].log_sequence == 21


async def test_errors_of_a_stream_name_their_batch() -> None:
    answers = [
        one
        async for one in an_intake(MemoryStore()).stream(
            several(
                a_batch(1, an_event("u", "a")), a_batch(2, an_event("u", "a"), an_event("", "b"))
            )
        )
    ]
    errors = [error for one in answers for error in one.errors]
    assert [(one.sequence, one.index, one.field) for one in errors] == [(2, 1, "events[1].user_id")]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (a_batch(2, an_event()), "sequence"),
        (a_batch(1, an_event()), "sequence"),
        (a_batch(3), "events"),
    ],
)
async def test_a_wrong_batch_ends_the_stream_after_all_before_it_are_acknowledged(
    wrong: EventBatch, field: str
) -> None:
    store = MemoryStore()
    answers: list[Acknowledgement] = []
    stream = an_intake(store).stream(several(a_batch(2, an_event("u", "a")), wrong))
    with pytest.raises(InvalidRequest) as error:
        await drain(stream, answers)
    assert error.value.violations[0][0] == field
    assert [one.acknowledged_sequence for one in answers] == [2]
    assert len(await recorded(store)) == 1


async def test_the_first_batch_of_a_stream_has_a_number() -> None:
    stream = an_intake(MemoryStore()).stream(several(a_batch(0, an_event())))
    with pytest.raises(InvalidRequest, match="at least 1"):
        await drain(stream, [])


async def test_a_broken_stream_goes_on_by_sending_again() -> None:
    store = BreakableStore()
    intake = an_intake(store)
    batches = [a_batch(n, an_event("u", f"i{n}")) for n in range(1, 11)]

    async def breaking() -> AsyncIterator[EventBatch]:
        for batch in batches:
            while batch.sequence == 6 and store.appends == 0:
                await asyncio.sleep(0)  # what came before is durable
            store.down = batch.sequence >= 6
            yield batch
            await asyncio.sleep(0)

    before: list[Acknowledgement] = []
    with pytest.raises(ProfilesUnavailable):
        await drain(intake.stream(breaking()), before)
    store.down = False
    acknowledged = before[-1].acknowledged_sequence
    assert 1 <= acknowledged <= 5
    answers = [one async for one in intake.stream(several(*batches))]
    assert answers[-1].acknowledged_sequence == 10
    assert len(await recorded(store)) == 10
    assert sum(one.duplicates for one in answers) >= acknowledged


async def test_a_stream_is_read_no_faster_than_events_become_durable() -> None:
    store = HeldStore()
    sent = 0

    async def endless() -> AsyncIterator[EventBatch]:
        nonlocal sent
        for number in range(1, 200):
            sent += 1
            yield a_batch(number, *(an_event("u", f"i{number}-{n}") for n in range(500)))

    stream = an_intake(store).stream(endless())
    first = asyncio.create_task(anext(stream))
    for _ in range(300):
        await asyncio.sleep(0)
    # One append is under way, and as much again waits in the stream's inbox.
    assert sent * 500 <= 2 * 10_000 + 500
    store.go.set()
    await first
    await stream.aclose()


async def test_a_stream_is_read_between_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    way = RightOfWay(patience_s=600.0)
    monkeypatch.setattr(intake_module, "REQUESTS_FIRST", way)
    sent: list[int] = []

    async def batches() -> AsyncIterator[EventBatch]:
        for number in (1, 2, 3):
            sent.append(number)
            yield a_batch(number, an_event("u", f"i{number}"))

    stream = an_intake(MemoryStore()).stream(batches())
    with way.claimed():
        assert (await asyncio.wait_for(anext(stream), 20)).acknowledged_sequence == 1
        await asyncio.sleep(0.01)
        assert sent == [1]
    async with asyncio.timeout(20):
        assert [one.acknowledged_sequence async for one in stream][-1] == 3


async def test_a_stream_that_its_client_leaves_frees_its_place() -> None:
    intake = an_intake(MemoryStore())

    async def quiet() -> AsyncIterator[EventBatch]:
        yield a_batch(1, an_event())
        await asyncio.Event().wait()

    streams = [intake.stream(quiet()) for _ in range(64)]
    for one in streams:
        await anext(one)
    with pytest.raises(TooManyStreams):
        await anext(intake.stream(quiet()))
    await streams[0].aclose()
    again = intake.stream(quiet())
    assert (await anext(again)).acknowledged_sequence == 1
    for one in (again, *streams):
        await one.aclose()


async def test_events_of_one_user_from_many_calls_are_all_in_the_history() -> None:
    async with a_live_world(config=Config()) as (world, store):
        await asyncio.gather(
            *(
                world.recommender.record_events([an_event("busy", f"i{n}", time_ms=n + 1)])
                for n in range(50)
            )
        )
        profile = await store.get("busy")
    assert profile is not None
    assert profile.history.times_ms.tolist() == list(range(1, 51))
    assert np.array_equal(profile.history.keys, keys_of(f"i{n}" for n in range(50)))
