"""Which versions answer whom while a rollout is under way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace

import pytest

from orchestrator.guards import Guards
from orchestrator.releases import Release, place_of
from orchestrator.rollout_canary import Canary
from orchestrator.tokens import Attribution
from shortlist.config import CanaryConfig, Config
from shortlist.errors import InvalidRequest, TierUnavailable, VersionNotServed
from shortlist.page import Page, RankRequest
from shortlist.stores.memory import MemoryStore
from shortlist.tiers import Keys
from tests.orchestrator.live import a_live_world, an_event
from tests.orchestrator.world import World, a_world, item_ids, reasons

V2 = Release(retrieval="v2", ranking="r2")
GUARDS = Guards.of(CanaryConfig(min_requests=20))
USERS = [f"user-{number}" for number in range(60)]


def prepare(world: World, *, retrieval: str = "v2", ranking: str = "r2") -> None:
    """Every replica holds the versions beside the active ones."""
    for shard in world.shards:
        shard.also = (*shard.also, retrieval)
    for ranker in world.rankers:
        ranker.also = (*ranker.also, ranking)


def activate(world: World, *, retrieval: str = "v2", ranking: str = "r2") -> None:
    """Every replica answers with them now and keeps what it had."""
    for shard in world.shards:
        shard.version, shard.also = retrieval, (shard.version,)
    for ranker in world.rankers:
        ranker.version, ranker.also = ranking, (ranker.version,)


async def test_every_request_names_one_retrieval_and_one_ranking_version() -> None:
    async with a_world() as world:
        await world.page()
    assert {shard.queries[-1].index_version for shard in world.shards} == {"v1"}
    assert world.rankers[0].queries[-1].model_version == "r1"


async def test_a_refresh_names_what_is_active_from_then_on() -> None:
    async with a_world() as world:
        rollout = world.recommender.rollout
        assert rollout.stable == Release(retrieval="v1", ranking="r1")
        activate(world)
        assert await rollout.refresh() == Release(retrieval="v2", ranking="r2")
        page = await world.page()
    assert (page.versions.retrieval, page.versions.ranking) == ("v2", "r2")


async def test_a_refresh_does_not_take_the_answer_of_questions_asked_before() -> None:
    async with a_world() as world:
        rollout = world.recommender.rollout
        for tier in (*world.shards, *world.rankers):
            tier.delay_s = 0.05
        before = asyncio.create_task(rollout.refresh())
        await asyncio.sleep(0.02)
        activate(world)
        assert await rollout.refresh() == Release(retrieval="v2", ranking="r2")
        await before


async def test_pages_stay_on_the_old_ranking_version_until_every_ranker_has_left_it() -> None:
    async with a_world(rankers=2) as world:
        prepare(world)
        world.rankers[0].version, world.rankers[0].also = "r2", ("r1",)
        await world.recommender.rollout.refresh()
        half = [await world.page() for _ in range(4)]
        world.rankers[1].version, world.rankers[1].also = "r2", ("r1",)
        await world.recommender.rollout.refresh()
        done = [await world.page() for _ in range(4)]
    assert {page.versions.ranking for page in half} == {"r1"}
    assert {page.versions.ranking for page in done} == {"r2"}


async def test_a_listing_keeps_its_ranking_version_while_others_move_on() -> None:
    async with a_world() as world:
        first = await world.page()
        activate(world)
        await world.recommender.rollout.refresh()
        second = await world.page(page_token=first.next_page_token)
        other = await world.page("bob")
    assert (second.versions.retrieval, second.versions.ranking) == ("v1", "r1")
    assert (other.versions.retrieval, other.versions.ranking) == ("v2", "r2")


async def test_rankers_that_moved_on_unnoticed_are_asked_again_by_their_new_version() -> None:
    async with a_world() as world:
        world.rankers[0].version = "r2"  # and it dropped r1
        page = await world.page()
    assert page.versions.ranking == "r2"
    assert page.degradations == ()


async def test_a_refresh_while_no_tier_answers_keeps_what_was_known() -> None:
    async with a_world() as world:
        for tier in (*world.shards, *world.rankers):
            tier.fails = TierUnavailable("down")
        assert await world.recommender.rollout.refresh() == Release(retrieval="v1", ranking="r1")


# -- canary ---------------------------------------------------------------------------------------


async def a_canary(
    world: World, share: float = 0.5, release: Release = V2, guards: Guards = GUARDS
) -> Canary:
    """Prepared on every replica, and running."""
    prepare(world)
    canary = await world.recommender.rollout.set_canary(release, share, guards)
    assert canary is not None
    return canary


def versions_of(page: Page) -> tuple[str, str]:
    return page.versions.retrieval, page.versions.ranking


async def test_a_share_of_the_users_gets_both_versions_of_the_canary_and_always_does() -> None:
    async with a_world() as world:
        canary = await a_canary(world)
        pages = {user: [await world.page(user) for _ in range(2)] for user in USERS}
    assert all({*map(versions_of, both)} < {("v1", "r1"), ("v2", "r2")} for both in pages.values())
    mine = {user for user, both in pages.items() if versions_of(both[0]) == ("v2", "r2")}
    assert mine == {user for user in USERS if canary.includes(user)}
    assert 15 < len(mine) < 45
    labels = {(pages[user][0].versions.release, user in mine) for user in USERS}
    assert labels == {(canary.label(canary=True), True), (canary.label(canary=False), False)}


async def test_a_release_may_change_one_tier_only() -> None:
    async with a_world() as world:
        await a_canary(world, share=1.0, release=Release(ranking="r2"))
        ranking = await world.page()
        await world.recommender.rollout.set_canary(Release(retrieval="v2"), 1.0, GUARDS)
        retrieval = await world.page()
    assert versions_of(ranking) == ("v1", "r2")
    assert versions_of(retrieval) == ("v2", "r1")


def test_a_growing_share_keeps_its_users_and_another_canary_takes_others() -> None:
    small, large = (
        Canary(release=V2, share=share, guards=GUARDS, started_ms=0) for share in (0.1, 0.3)
    )
    other = Canary(
        release=Release(retrieval="v3", ranking="r2"), share=0.3, guards=GUARDS, started_ms=0
    )
    users = [f"u{number}" for number in range(4000)]
    in_small, in_large, in_other = (
        {user for user in users if one.includes(user)} for one in (small, large, other)
    )
    assert in_small < in_large
    assert 0.08 < len(in_small) / 4000 < 0.12
    assert 0.06 < len(in_large & in_other) / 4000 < 0.12  # as chance has it: 0.09
    assert small.label(canary=True) != large.label(canary=True)
    assert 0 <= place_of("somebody", "") < 1


async def test_who_names_no_user_is_told_apart_by_visit_or_else_by_request() -> None:
    async with a_world() as world:
        canary = await a_canary(world)
        visits = {f"visit-{n}" for n in range(20)}
        for name in visits:
            page = await world.page("", session_id=name)
            assert (versions_of(page) == ("v2", "r2")) == canary.includes(name)
            page = await world.page("", request_id=name)
            assert (versions_of(page) == ("v2", "r2")) == canary.includes(name)


async def test_a_listing_stays_on_its_side_whatever_happens_to_the_canary() -> None:
    async with a_world() as world:
        before = await world.page("bob")
        canary = await a_canary(world, share=1.0)
        first = await world.page("ann")
        second = await world.page("ann", page_token=first.next_page_token)
        old = await world.page("bob", page_token=before.next_page_token)
        await world.recommender.rollout.set_canary(Release(), 0.0, GUARDS)
        third = await world.page("ann", page_token=second.next_page_token)
        fresh = await world.page("ann")
    label = canary.label(canary=True)
    assert [versions_of(page) for page in (first, second, third)] == [("v2", "r2")] * 3
    assert [page.versions.release for page in (first, second, third)] == [label] * 3
    assert (versions_of(old), old.versions.release) == (("v1", "r1"), "")
    assert (versions_of(fresh), fresh.versions.release) == (("v1", "r1"), "")
    assert canary.seen(canary=True).pages == 2  # what came after its end is not counted


async def test_the_callers_items_are_ranked_by_the_canary_too() -> None:
    async with a_world() as world:
        canary = await a_canary(world, share=1.0)
        ranking = await world.recommender.rank(RankRequest(item_ids=("i1", "i2"), user_id="ann"))
    assert (ranking.versions.retrieval, ranking.versions.ranking) == ("v2", "r2")
    assert ranking.versions.release == canary.label(canary=True)


@pytest.mark.parametrize("lost", ["a shard", "all shards", "the ranker"])
async def test_a_canary_whose_version_a_replica_lost_falls_back_and_is_counted(lost: str) -> None:
    async with a_world() as world:
        canary = await a_canary(world, share=1.0)
        for tier in {
            "a shard": world.shards[:1],
            "all shards": world.shards,
            "the ranker": world.rankers,
        }[lost]:
            tier.also = ()
        page = await world.page()
    assert versions_of(page) == ("v1", "r1")
    assert (page.versions.release, page.degradations) == ("", ())
    seen = canary.seen(canary=True)
    assert (seen.figures.fallen_back, seen.figures.requests, seen.pages) == (1, 1, 0)


async def test_a_ranking_of_items_falls_back_too() -> None:
    async with a_world() as world:
        canary = await a_canary(world, share=1.0)
        world.shards[0].also = ()
        ranking = await world.recommender.rank(RankRequest(item_ids=("i1", "i2"), user_id="ann"))
    assert (ranking.versions.retrieval, len(ranking.items)) == ("v1", 2)
    assert canary.seen(canary=True).figures.fallen_back == 1


async def test_versions_that_a_replica_has_not_prepared_are_refused_naming_it() -> None:
    async with a_world(replicas=2) as world:
        rollout = world.recommender.rollout
        with pytest.raises(VersionNotServed, match="no replica has prepared retrieval version v2"):
            await rollout.set_canary(V2, 0.1, GUARDS)
        for shard in world.shards[:3]:
            shard.also = ("v2",)
        with pytest.raises(VersionNotServed, match="v2 is not prepared on array/1"):
            await rollout.set_canary(V2, 0.1, GUARDS)
        world.shards[3].also = ("v2",)
        with pytest.raises(VersionNotServed, match="no replica has prepared ranking version r2"):
            await rollout.set_shadow(V2, 0.1)
        world.rankers[0].also = ("r2",)
        world.shards[3].fails = TierUnavailable("out of reach")
        world.shards[3].also = ()
        assert await rollout.set_canary(V2, 0.1, GUARDS) is not None


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
async def test_a_share_outside_of_0_to_1_is_refused(share: float) -> None:
    async with a_world() as world:
        for change in (
            world.recommender.rollout.set_canary(V2, share, GUARDS),
            world.recommender.rollout.set_shadow(V2, share),
        ):
            with pytest.raises(InvalidRequest) as refused:
                await change
            assert refused.value.violations[0][0] == "share"


async def test_other_bounds_leave_the_figures_and_another_share_begins_anew() -> None:
    async with a_world() as world:
        canary = await a_canary(world, share=1.0)
        await world.page()
        looser = replace(GUARDS, max_p99_ratio=5.0)
        assert await world.recommender.rollout.set_canary(V2, 1.0, looser) is canary
        assert canary.guards == looser
        assert canary.seen(canary=True).pages == 1
        other = await world.recommender.rollout.set_canary(V2, 0.9, looser)
        assert other is not None
        assert other.seen(canary=True).pages == 0


async def test_a_canary_that_fails_ends_by_itself_and_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with a_world() as world:
        canary = await a_canary(world)
        world.rankers[0].broken["r2"] = TierUnavailable("cannot")
        with caplog.at_level(logging.WARNING):
            pages = [await world.page(user) for user in USERS]
        assert reasons(pages[0]) == [] or reasons(pages[0]) == ["RANKER_FALLBACK"]
        after = [await world.page(user) for user in USERS]
    assert not canary.running
    assert canary.rolled_back_because.startswith("degradation rate 100.00% of 20 requests")
    assert "rolled back: degradation rate" in caplog.text
    assert {versions_of(page) for page in after} == {("v1", "r1")}
    assert {page.versions.release for page in after} == {""}
    assert canary.seen(canary=True).figures.degraded == 20


async def test_requests_that_fail_are_counted_but_not_the_callers_mistakes() -> None:
    async with a_world() as world:
        canary = await a_canary(world, share=1.0)
        with pytest.raises(InvalidRequest):
            await world.page(diversity=2.0)
        for shard in world.shards:
            shard.fails = TierUnavailable("down")
        with pytest.raises(TierUnavailable):
            await world.page(filter='genre = "g1"')
    figures = canary.seen(canary=True).figures
    assert (figures.requests, figures.failed) == (1, 1)


# -- what comes of pages --------------------------------------------------------------------------


async def test_pages_impressions_and_events_say_on_which_side_they_were() -> None:
    exposures: list[Mapping[str, object]] = []

    class WatchedStore(MemoryStore):
        async def log_impressions(
            self, user_id: str, keys: Keys, times_ms: int, exposure: Mapping[str, object]
        ) -> None:
            exposures.append(exposure)

    store = WatchedStore()
    async with a_world(store=store) as world:
        canary = await a_canary(world, share=1.0)
        page = await world.page("ann")
        label = canary.label(canary=True)
        assert Attribution.decode(page.attribution_token).release == label
        event = an_event("ann", page.items[2].id, attribution_token=page.attribution_token)
        await world.recommender.record_events([event])
        [stored] = [one.event async for one in store.events(0, await store.head())]
    assert (stored.attribution["release"], stored.attribution["ranking_version"]) == (label, "r2")
    assert [one["release"] for one in exposures] == [label]


async def test_clicks_count_once_for_the_side_that_had_shown_the_page() -> None:
    async with a_live_world() as (world, _):
        canary = await a_canary(world)
        mine = next(user for user in USERS if canary.includes(user))
        other = next(user for user in USERS if not canary.includes(user))
        for user in (mine, other, other):
            page = await world.page(user)
            token, shown = page.attribution_token, item_ids(page)
            clicks = [an_event(user, shown[at], attribution_token=token) for at in (0, 1)]
            seen = an_event(user, shown[2], event_type="view", attribution_token=token)
            again = an_event(user, shown[0], attribution_token=token)  # another event on the same
            plain = an_event(user, shown[3])  # from somewhere else
            await world.recommender.record_events([*clicks, seen, again, plain])
            await world.recommender.record_events(clicks)  # duplicates
    assert (canary.seen(canary=True).pages, canary.seen(canary=True).clicks) == (1, 2)
    assert (canary.seen(canary=False).pages, canary.seen(canary=False).clicks) == (2, 4)


async def test_clicks_on_pages_from_before_the_canary_are_nobodys() -> None:
    async with a_live_world() as (world, _):
        page = await world.page("ann")
        canary = await a_canary(world, share=1.0)
        event = an_event("ann", page.items[0].id, attribution_token=page.attribution_token)
        await world.recommender.record_events([event])
    assert canary.seen(canary=True).clicks == canary.seen(canary=False).clicks == 0


async def test_a_canary_that_is_never_clicked_ends_by_itself() -> None:
    async with a_live_world(config=Config()) as (world, _):
        canary = await a_canary(world, release=Release(ranking="r2"))
        for number in range(400):
            user = f"reader-{number}"
            page = await world.page(user, page_size=2)
            if not canary.running:
                break
            if not canary.includes(user):
                token = page.attribution_token
                click = an_event(user, page.items[0].id, attribution_token=token)
                await world.recommender.record_events([click])
    assert canary.rolled_back_because.startswith("click rate 0.0000 over")
