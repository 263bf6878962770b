"""Filters of a request, over real if small shards: what a page may have, and that it is full."""

from __future__ import annotations

import pytest

from orchestrator.demands import Demands
from orchestrator.tokens import PageToken
from shortlist.config import Config, ServingConfig
from shortlist.errors import InvalidField, InvalidRequest, TierUnavailable
from shortlist.filters import COMPOSED_LIMITS, parse
from shortlist.page import RecentEvent, SimilarRequest
from tests.orchestrator.world import DAY_MS, NOW_MS, World, a_world, item_ids, reasons

ITEMS = 300  # of the world; item n has genre g<n % 5> and was published on day n of 1970


def serving(filter: str) -> Config:
    return Config(serving=ServingConfig(filter=filter))


def numbers(ids: list[str]) -> list[int]:
    return [int(one.removeprefix("i")) for one in ids]


async def whole_listing(world: World, **fields: object) -> list[str]:
    """All pages of a listing, to the end."""
    ids: list[str] = []
    token = ""
    while True:
        page = await world.page(page_token=token, **fields)
        ids += item_ids(page)
        token = page.next_page_token
        if not token:
            return ids


async def test_a_page_has_only_what_matches_and_is_full() -> None:
    async with a_world() as world:
        page = await world.page(filter='genre IN ("g1", "g3") AND published_at < time(25920000000)')
    found = numbers(item_ids(page))
    assert len(found) == 20
    assert all(n % 5 in (1, 3) and n < 300 for n in found)
    assert reasons(page) == []


async def test_blocked_values_are_never_shown() -> None:
    async with a_world() as world:
        page = await world.page(blocked={"genre": ("g0", "g1", "g2")}, page_size=50)
    assert {n % 5 for n in numbers(item_ids(page))} == {3, 4}
    assert len(page.items) == 50


async def test_a_listing_shows_every_item_that_qualifies_once_and_no_other() -> None:
    """Filter, seen, excluded and blocked at once, over pages that get ever emptier."""
    async with a_world() as world:
        ids = await whole_listing(
            world,
            user_id="ann",  # has seen i0 to i19
            filter='NOT genre = "g4" AND published_at <= time(8640000000)',  # up to i100
            blocked={"genre": ("g0",)},
            exclude_item_ids=("i21", "i22"),
            page_size=7,
            diversity=0.0,
        )
    expected = [n for n in range(20, 101) if n % 5 in (1, 2, 3) and n not in (21, 22)]
    assert sorted(numbers(ids)) == expected


async def test_a_filter_that_little_matches_gives_that_little() -> None:
    async with a_world() as world:
        page = await world.page(filter='id IN ("i100", "i200", "nonsense")', exclude_seen=False)
        nothing = await world.page(filter='genre = "g9"')
    assert sorted(item_ids(page)) == ["i100", "i200"]
    assert reasons(page) == ["PAGE_UNDERFILLED"]
    assert item_ids(nothing) == []


async def test_now_is_the_moment_of_the_request_to_the_second() -> None:
    async with a_world(shards=1) as world:
        await world.page(filter="published_at > now() - 2d")
        await world.page(filter="published_at > now()", time_ms=NOW_MS - DAY_MS + 1234)
        first, second = (query.filter for query in world.shards[0].queries[-2:])
    assert first == f"published_at > time({NOW_MS - 2 * DAY_MS})"
    assert second == f"published_at > time({NOW_MS - DAY_MS + 1000})"


async def test_what_differs_only_in_order_is_one_text_for_the_shards() -> None:
    demands = Demands("EXISTS(x)")
    one = demands.text('b = 2 AND a IN ("y", "x")', {"c": ("q", "p")}, now_ms=0)
    other = demands.text("(a in ('x','y','x')) and not not b = 2.0", {"c": ("p", "q")}, now_ms=999)
    assert one == other == 'EXISTS(x) AND UNLESS c IN ("p", "q") AND a IN ("x", "y") AND b = 2'


async def test_what_a_shard_would_refuse_for_its_size_is_refused_here() -> None:
    names = {f"f{n}": tuple(f"{value:0400d}" for value in range(30)) for n in range(10)}
    with pytest.raises(InvalidField, match="blocked"):
        Demands().text("", names, now_ms=0)
    deepest = "NOT (" * 16 + "a = 1 OR b = 2" + ")" * 16
    text = Demands(deepest).text(f"UNLESS {deepest[4:]}", {"c": ("x",)}, now_ms=0)
    parse(text, limits=COMPOSED_LIMITS)


@pytest.mark.parametrize("filter", ['mood = "sad"', "genre > 3", "popularity = 'x'"])
async def test_what_the_items_cannot_answer_is_the_callers_mistake(filter: str) -> None:
    async with a_world() as world:
        with pytest.raises(InvalidRequest, match="filter: ") as refused:
            await world.page(filter=filter)
        assert refused.value.violations[0][0] == "filter"


async def test_what_the_server_demands_always_holds() -> None:
    async with a_world(config=serving('genre != "g0" AND published_at < now()')) as world:
        page = await world.page(page_size=100)
        both = await world.page(filter='genre IN ("g0", "g1")')
        similar = await world.recommender.similar(SimilarRequest(item_id="i7", page_size=50))
    assert not any(n % 5 == 0 for n in numbers(item_ids(page)))
    assert {n % 5 for n in numbers(item_ids(both))} == {1}
    assert not any(int(item.id[1:]) % 5 == 0 for item in similar.items)


async def test_similar_items_can_be_filtered() -> None:
    async with a_world() as world:
        request = SimilarRequest(item_id="i7", filter='genre HAS "g2"', page_size=30)
        similar = await world.recommender.similar(request)
    assert len(similar.items) == 30
    assert all(int(item.id[1:]) % 5 == 2 for item in similar.items)


async def test_without_shards_a_filter_is_an_error_and_never_forgotten() -> None:
    async with a_world() as world:
        for shard in world.shards:
            shard.fails = TierUnavailable("down")
        with pytest.raises(TierUnavailable, match="filter"):
            await world.page(filter='genre = "g1"')
        with pytest.raises(TierUnavailable, match="filter"):
            await world.page(blocked={"genre": ("g1",)})
        assert reasons(await world.page())[-1] == "POPULARITY_FALLBACK"


async def test_the_cached_items_meet_what_the_server_demands() -> None:
    async with a_world(config=serving('genre = "g2"')) as world:
        for shard in world.shards:
            shard.fails = TierUnavailable("down")
        page = await world.page()
        with pytest.raises(TierUnavailable, match="filter"):
            await world.page(filter="popularity > 3")
    assert reasons(page)[-1] == "POPULARITY_FALLBACK"
    assert {n % 5 for n in numbers(item_ids(page))} == {2}


async def test_one_shard_less_does_not_open_a_filter() -> None:
    async with a_world(shards=3) as world:
        world.shards[1].fails = TierUnavailable("down")
        page = await world.page(filter='genre = "g1"')
    assert {n % 5 for n in numbers(item_ids(page))} == {1}
    assert reasons(page) == ["SHARD_DOWN"]


async def test_a_page_token_belongs_to_its_filter_and_its_blocked_values() -> None:
    async with a_world() as world:
        first = await world.page(filter='genre != "g1"', blocked={"genre": ("g2", "g3")})
        token = first.next_page_token
        following = await world.page(
            filter='genre != "g1"', blocked={"genre": ("g3", "g2")}, page_token=token
        )
        assert PageToken.decode(token).listing.offset == following.items[0].rank == 20
        for fields in ({"filter": 'genre != "g1"'}, {"blocked": {"genre": ("g2", "g3")}}, {}):
            with pytest.raises(InvalidField, match="page_token"):
                await world.page(page_token=token, **fields)


async def test_a_history_still_counts_where_its_items_do_not_match() -> None:
    async with a_world() as world:
        recent = (RecentEvent(item_id="i30"),)
        page = await world.page(filter='genre = "g1"', recent_events=recent)
    assert not page.cold_start
    assert len(page.items) == 20
