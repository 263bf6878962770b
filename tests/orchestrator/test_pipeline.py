from __future__ import annotations

import numpy as np
import pytest

from orchestrator.tokens import Attribution
from shortlist.config import Config, RetrievalConfig, ServingConfig, SlateConfig
from shortlist.errors import BudgetExceeded, InvalidRequest, ShortlistError
from shortlist.ids import key_of, keys_of
from shortlist.page import Page, PageRequest, RankRequest, RecentEvent
from tests.orchestrator.world import (
    NOW_MS,
    WATERMARK_MS,
    a_world,
    item_ids,
    reasons,
    scores_by_key,
)

PURE_RANKING = Config(slate=SlateConfig(diversity=0.0))


async def test_a_page_is_the_best_ranked_of_what_the_user_has_not_seen() -> None:
    async with a_world(config=PURE_RANKING) as world:
        page = await world.page("ann", page_size=10)
    seen = set(world.users["ann"].seen.tolist())
    fresh = np.array([key for key in world.catalogue.keys.tolist() if key not in seen], np.uint64)
    best = fresh[np.lexsort((fresh, -scores_by_key(fresh)))][:10]
    assert keys_of(item_ids(page)).tolist() == best.tolist()
    assert [item.score for item in page.items] == scores_by_key(best).tolist()
    assert [item.rank for item in page.items] == list(range(10))
    assert page.degradations == ()
    assert (page.versions.retrieval, page.versions.ranking) == ("v1", "r1")
    assert page.versions.retrieval_watermark_ms == WATERMARK_MS
    assert page.coverage.share == 1.0
    assert not page.cold_start


async def test_the_default_page_has_the_configured_size() -> None:
    async with a_world() as world:
        assert len((await world.page()).items) == 20
    async with a_world(config=Config(slate=SlateConfig(page_size=7))) as world:
        assert len((await world.page()).items) == 7


@pytest.mark.parametrize("shards", [2, 3, 5])
async def test_the_page_does_not_depend_on_the_number_of_shards(shards: int) -> None:
    async with a_world(shards=1) as one, a_world(shards=shards) as many:
        assert (await one.page()).items == (await many.page()).items


@pytest.mark.parametrize("seed", range(8))
async def test_no_page_has_duplicates_or_unwanted_items(seed: int) -> None:
    rng = np.random.default_rng(seed)
    async with a_world(items=120, shards=int(rng.integers(1, 4))) as world:
        excluded = tuple(rng.choice(world.catalogue.ids, 30, replace=False).tolist())
        page = await world.page(
            "ann",
            page_size=int(rng.integers(1, 120)),
            exclude_item_ids=excluded,
            diversity=float(rng.random()),
        )
    ids = item_ids(page)
    assert len(set(ids)) == len(ids)
    assert not set(ids) & set(excluded)
    assert not set(keys_of(ids).tolist()) & set(world.users["ann"].seen.tolist())


async def test_seen_items_may_be_asked_for() -> None:
    async with a_world(items=60, config=PURE_RANKING) as world:
        page = await world.page("ann", page_size=60, exclude_seen=False)
    assert len(page.items) == 60


async def test_sources_titles_and_attributes_come_with_the_items() -> None:
    async with a_world() as world:
        page = await world.page(return_attributes=("genre",))
    for item in page.items:
        assert item.title == f"Title {item.id}"
        assert item.attributes == {"genre": world.catalogue.genres[int(item.id[1:])]}
        assert set(item.sources) <= {"two_tower", "popular"}
        assert item.sources


async def test_an_unknown_user_gets_a_cold_start_page() -> None:
    async with a_world() as world:
        stranger, nobody = await world.page("stranger"), await world.page("")
    assert stranger.cold_start
    assert nobody.cold_start
    assert len(stranger.items) == 20
    assert world.shards[0].queries[-2].user.user_key == key_of("stranger")
    assert world.shards[0].queries[-1].user.user_key == 0


async def test_recent_events_warm_up_a_stranger_and_are_not_shown_again() -> None:
    async with a_world() as world:
        recent = (RecentEvent(item_id="i3"), RecentEvent(item_id="i5", event_type="view"))
        page = await world.page("stranger", recent_events=recent, page_size=200)
        history = world.shards[0].queries[-1].user.history
    assert not page.cold_start
    assert not {"i3", "i5"} & set(item_ids(page))
    assert history.keys.tolist() == keys_of(["i3", "i5"]).tolist()
    assert history.weights.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("event", "weight"),
    [
        (RecentEvent(item_id="i1"), 1.0),  # the schema's first type
        (RecentEvent(item_id="i1", event_type="rating", value=3.0), 2.0),
        (RecentEvent(item_id="i1", event_type="rating", value=2.5), 0.0),
        (RecentEvent(item_id="i1", event_type="rating"), 2.0),
    ],
)
async def test_recent_events_weigh_what_the_schema_says(event: RecentEvent, weight: float) -> None:
    async with a_world() as world:
        await world.page("stranger", recent_events=(event,))
    assert world.shards[0].queries[-1].user.history.weights.tolist() == [weight]


async def test_the_history_that_travels_is_the_newest_part() -> None:
    config = Config(serving=ServingConfig(history_length=5))
    async with a_world(config=config) as world:
        page = await world.page("ann", page_size=200, trace=True)
    history = world.shards[0].queries[-1].user.history
    assert history.keys.tolist() == world.catalogue.keys[15:20].tolist()
    # What is seen is everything, not only what travels.
    assert not set(keys_of(item_ids(page)).tolist()) & set(world.users["ann"].seen.tolist())


async def test_request_attributes_override_the_stored_ones() -> None:
    async with a_world() as world:
        await world.page("ann", user_attributes={"age": 30.0}, context={"device": "tv"})
        await world.page("ann", user_attributes={"country": "no"})
    first, second = (query.user for query in world.shards[0].queries[-2:])
    assert first.attributes == {"country": "is", "age": 30.0}
    assert first.context == {"device": "tv"}
    assert second.attributes == {"country": "no"}


async def test_models_are_not_asked_about_a_moment_far_beyond_their_training() -> None:
    async with a_world() as world:
        await world.page(time_ms=NOW_MS)
        assert world.shards[0].queries[-1].user.time_ms == NOW_MS
        await world.page(time_ms=WATERMARK_MS - 5)
        assert world.shards[0].queries[-1].user.time_ms == WATERMARK_MS - 5
    half_a_day = Config(serving=ServingConfig(max_staleness_days=0.5))
    async with a_world(config=half_a_day) as world:
        recent = (RecentEvent(item_id="i1"),)
        await world.page(recent_events=recent)
        user = world.shards[0].queries[-1].user
        assert user.time_ms == WATERMARK_MS  # the same hour of the last day that is believed
        assert user.history.times_ms.max() == user.time_ms  # no event lies in the future
    async with a_world(config=Config(serving=ServingConfig(max_staleness_days=0))) as world:
        await world.page()
        assert world.shards[0].queries[-1].user.time_ms == NOW_MS


async def test_a_page_for_the_past_does_not_know_what_came_later() -> None:
    async with a_world() as world:
        times = world.users["ann"].history.times_ms
        await world.page("ann", time_ms=int(times[9]))
    assert world.shards[0].queries[-1].user.history.times_ms.tolist() == times[:10].tolist()


async def test_unknown_items_of_the_request_are_counted() -> None:
    async with a_world(shards=3) as world:
        page = await world.page(
            exclude_item_ids=("i1", "nonsense", "rubbish"),
            recent_events=(RecentEvent(item_id="nonsense"), RecentEvent(item_id="trash")),
        )
    assert page.unknown_items == 3
    assert len(page.items) == 20


async def test_only_the_sources_asked_for_propose() -> None:
    async with a_world() as world:
        page = await world.page(sources=("popular",), quotas={"popular": 33})
        assert world.shards[0].queries[-1].quotas == {"popular": 33}
    assert {source for item in page.items for source in item.sources} == {"popular"}


async def test_the_funnel_is_told_when_asked_for() -> None:
    config = Config(retrieval=RetrievalConfig(candidates=100))
    async with a_world(config=config) as world:
        assert (await world.page()).trace is None
        trace = (await world.page(trace=True)).trace
        assert trace is not None
        assert tuple(one.stage for one in trace.stages) == world.recommender.stages
    stages = {one.stage: one for one in trace.stages}
    assert stages["profile"].items_out == 20
    assert stages["retrieve"].items_in == 300
    assert stages["retrieve"].by_source == {"two_tower": 280, "popular": 280}
    assert stages["blend"].items_out == 100
    assert stages["blend"].dropped == {"duplicate": 280, "quota": 180}
    assert stages["rank"].items_in == stages["rank"].items_out == 100
    assert stages["describe"].items_out == 60
    assert stages["slate"].dropped == {"not_chosen": 40}
    assert stages["respond"].items_out == 20
    assert trace.total_us >= sum(one.duration_us for one in trace.stages)


async def test_caps_hold_and_the_page_is_filled_up_from_further_down() -> None:
    config = Config(slate=SlateConfig(pool=10, diversity=0.0))
    async with a_world(config=config) as world:
        # 2 of each of 5 genres: more than the first pool of 10 can give.
        page = await world.page(page_size=10, caps={"genre": 2})
    genres = [world.catalogue.genres[int(id[1:])][0] for id in item_ids(page)]
    assert len(genres) == 10
    assert all(genres.count(genre) == 2 for genre in set(genres))
    assert page.degradations == ()


async def test_a_page_is_underfilled_only_if_nothing_is_left() -> None:
    async with a_world() as world:
        page = await world.page(page_size=20, caps={"genre": 2})
    assert len(page.items) == 10
    assert reasons(page) == ["PAGE_UNDERFILLED"]
    assert page.next_page_token == ""


async def test_items_that_vanish_before_they_are_described_are_replaced() -> None:
    async with a_world(config=PURE_RANKING) as world:
        expected = item_ids(await world.page(page_size=50))
        for shard in world.shards:
            shard.forgets = keys_of(expected[:25])
        page = await world.page(page_size=20)
    assert item_ids(page) == expected[25:45]
    assert page.degradations == ()


async def test_an_empty_page_is_an_answer() -> None:
    async with a_world(items=30) as world:
        page = await world.page("", exclude_item_ids=world.catalogue.ids)
    assert page.items == ()
    assert reasons(page) == ["PAGE_UNDERFILLED"]


async def test_the_attribution_token_tells_what_was_shown_and_why() -> None:
    async with a_world() as world:
        page = await world.page("ann", request_id="req-9")
    shown = Attribution.decode(page.attribution_token)
    assert shown.request_id == "req-9"
    assert shown.user_key == key_of("ann")
    assert (shown.retrieval_version, shown.ranking_version) == ("v1", "r1")
    assert shown.keys.tolist() == keys_of(item_ids(page)).tolist()
    for item, mask in zip(page.items, shown.sources.tolist(), strict=True):
        names = [name for bit, name in enumerate(shown.source_names) if mask >> bit & 1]
        assert tuple(names) == item.sources


async def test_a_request_without_an_id_gets_one() -> None:
    async with a_world() as world:
        first, second = await world.page(), await world.page()
    assert first.request_id
    assert first.request_id != second.request_id


async def test_a_deadline_that_has_passed_is_an_error() -> None:
    async with a_world() as world:
        with pytest.raises(BudgetExceeded):
            await world.recommender.recommend(PageRequest(), deadline_ms=1)


async def test_a_batch_answers_each_request_on_its_own() -> None:
    async with a_world() as world:
        world.rankers[0].answers = None
        answers = await world.recommender.recommend_batch(
            [PageRequest(user_id="ann"), PageRequest(page_size=-1), PageRequest(filter="x")]
        )
        alone = await world.page("ann")
    page, invalid, no_filter = answers
    assert isinstance(page, Page)
    assert item_ids(page) == item_ids(alone)
    assert isinstance(invalid, ShortlistError)
    assert invalid.status_name == "INVALID_ARGUMENT"
    assert isinstance(no_filter, InvalidRequest)


async def test_a_bug_in_one_request_of_a_batch_stays_there_and_leaks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with a_world() as world:
        get = world.profiles.get

        async def broken(user_id: str) -> object:
            if user_id == "bob":
                raise ZeroDivisionError("secret")
            return await get(user_id)

        monkeypatch.setattr(world.profiles, "get", broken)
        good, bad = await world.recommender.recommend_batch(
            [PageRequest(user_id="ann"), PageRequest(user_id="bob", request_id="req-2")]
        )
    assert isinstance(good, Page)
    assert isinstance(bad, ShortlistError)
    assert str(bad) == "internal error, request req-2"
    assert bad.status_name == "INTERNAL"


async def test_ranking_orders_the_callers_items_and_leaves_out_unknown_ones() -> None:
    async with a_world() as world:
        ranking = await world.recommender.rank(
            RankRequest(user_id="ann", item_ids=("i1", "nonsense", "i2", "i30", "i4"), trace=True)
        )
    expected = sorted(["i1", "i2", "i30", "i4"], key=lambda id: -int(key_of(id) % 1009))
    assert [item.id for item in ranking.items] == expected
    assert [item.rank for item in ranking.items] == [0, 1, 2, 3]
    assert ranking.items[0].title == f"Title {expected[0]}"
    assert ranking.unknown_items == 1
    assert ranking.degradations == ()
    assert (ranking.versions.retrieval, ranking.versions.ranking) == ("v1", "r1")
    assert ranking.trace is not None
    assert [one.stage for one in ranking.trace.stages] == ["profile", "lookup", "rank", "respond"]


async def test_many_items_may_be_ranked_at_once() -> None:
    async with a_world(items=5000) as world:
        ranking = await world.recommender.rank(RankRequest(item_ids=world.catalogue.ids))
    scores = [item.score for item in ranking.items]
    assert len(scores) == 5000
    assert scores == sorted(scores, reverse=True)


async def test_configured_caps_over_features_that_items_lack_are_refused_at_the_start() -> None:
    world = a_world(config=Config(slate=SlateConfig(caps={"genre": 5, "colour": 1})))
    with pytest.raises(InvalidRequest, match="known: genre") as refused:
        await world.recommender.start()
    await world.recommender.close()
    assert [field for field, _ in refused.value.violations] == ["slate.caps.colour"]


async def test_closing_closes_the_tiers() -> None:
    async with a_world() as world:
        pass
    assert all(shard.closed for shard in world.shards)
    assert all(ranker.closed for ranker in world.rankers)


async def test_groups_of_items_are_fetched_only_for_caps() -> None:
    async with a_world() as world:
        asked = [shard.groups_asked for shard in world.shards]
        for one in asked:
            one.clear()  # the cached popular items have them
        await world.page()
        assert all(one and not any(one) for one in asked)
        for one in asked:
            one.clear()
        await world.page(caps={"genre": 3})
        assert all(one and all(one) for one in asked)
