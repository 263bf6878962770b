"""Fault 26: clocks that differ by a day. Events from the future happened now, and are flagged."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.events import EventIntake
from shortlist.client import AsyncClient
from shortlist.config import StoreConfig
from shortlist.page import PageRequest, RecentEvent
from tests.orchestrator.live import a_live_world, an_event
from tests.orchestrator.wire import served
from tests.orchestrator.world import DAY_MS, NOW_MS, SCHEMA, item_ids

HOUR_MS = 3_600_000


async def test_fault_26_events_of_a_clock_that_is_a_day_ahead_are_clamped_and_flagged(
    record_fault: Callable[..., None],
) -> None:
    async with (
        a_live_world() as (world, store),
        served(world.recommender) as target,
        AsyncClient(target) as client,
    ):
        leads = [-HOUR_MS, 0, 1, HOUR_MS, DAY_MS, 365 * DAY_MS, 2**62 - NOW_MS]
        events = [
            an_event("skewed", f"i{40 + n}", time_ms=NOW_MS + lead) for n, lead in enumerate(leads)
        ]
        report = await client.record_events(events)
        profile = await store.get("skewed")
        page = await client.recommend(PageRequest(user_id="skewed", page_size=200))
    assert report.accepted == len(leads)
    assert report.errors == ()
    assert report.clamped == (2, 3, 4, 5, 6)
    assert profile is not None
    assert profile.history.times_ms.tolist() == [NOW_MS - HOUR_MS] + [NOW_MS] * 6
    # What happened is known, whatever the client's clock said of when.
    assert not {f"i{40 + n}" for n in range(len(leads))} & set(item_ids(page))
    record_fault(clamped=len(report.clamped), refused=len(report.errors))


async def test_fault_26_events_of_a_clock_that_is_a_day_behind_are_taken_as_they_are() -> None:
    async with a_live_world() as (world, store):
        report = await world.recommender.record_events([an_event("late", time_ms=NOW_MS - DAY_MS)])
        profile = await store.get("late")
    assert (report.accepted, report.clamped) == (1, ())
    assert profile is not None
    assert profile.history.times_ms.tolist() == [NOW_MS - DAY_MS]


async def test_fault_26_what_one_orchestrator_took_in_is_known_to_one_with_a_slow_clock() -> None:
    """The stored event lies in the future of whoever makes the page, by a day."""
    async with a_live_world() as (world, store):
        fast = EventIntake(store, SCHEMA, StoreConfig(), clock=lambda: (NOW_MS + DAY_MS) / 1000)
        assert (await fast.record([an_event("ann", "i60")])).clamped == ()
        page = await world.page("ann", page_size=200)
        earlier = await world.page("ann", page_size=200, time_ms=NOW_MS - 1, exclude_seen=False)
        query = world.shards[0].queries[-2]
    assert "i60" not in item_ids(page)
    assert query.user.history.times_ms.max() <= query.user.time_ms
    assert len(query.user.history) == 21
    # A page for a moment that the request names is still one of that moment.
    assert len(world.shards[0].queries[-1].user.history) == 20
    assert earlier.items


async def test_fault_26_recent_events_of_a_request_may_be_a_day_ahead() -> None:
    async with a_live_world() as (world, _):
        recent = (RecentEvent(item_id="i60", time_ms=NOW_MS + DAY_MS),)
        page = await world.page("ann", recent_events=recent)
    assert len(page.items) == 20
