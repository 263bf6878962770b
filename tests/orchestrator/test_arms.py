"""Arms of an experiment: each names the ranker that orders the page."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.tokens import Attribution
from shortlist.config import ArmConfig, Config, RankingConfig, RetrievalConfig, SlateConfig
from shortlist.errors import InvalidRequest, TierUnavailable
from shortlist.ids import keys_of
from shortlist.page import Page, PageRequest, RankRequest
from tests.orchestrator.wire import distributed
from tests.orchestrator.world import World, a_world, item_ids, reasons, scores_by_key

ARMS = {
    "trees": ArmConfig(ranker="upside_down"),
    "plain": ArmConfig(ranker="none"),
}
CONFIG = Config(ranking=RankingConfig(arms=ARMS), slate=SlateConfig(diversity=0.0))


def with_default(ranker: str) -> Config:
    return CONFIG.model_copy(update={"ranking": RankingConfig(default=ranker, arms=ARMS)})


def key_scores(page: Page) -> list[float]:
    return scores_by_key(keys_of(item_ids(page))).tolist()


def blended(world: World) -> list[int]:
    """The candidates of the last ranking call, in the blend's order."""
    return world.rankers[0].queries[-1].candidates.keys.tolist()


async def test_each_arm_is_ordered_by_its_ranker() -> None:
    async with a_world(config=CONFIG) as world:
        default, trees = await world.page(), await world.page(arm="trees")
    assert key_scores(default) == sorted(key_scores(default), reverse=True)
    assert key_scores(trees) == sorted(key_scores(trees))
    assert (default.versions.ranker, default.versions.arm) == ("key", "")
    assert (trees.versions.ranker, trees.versions.arm) == ("upside_down", "trees")


async def test_the_ranker_none_keeps_the_blends_order_and_is_no_degradation() -> None:
    async with a_world(config=CONFIG) as world:
        await world.page()
        asked = len(world.rankers[0].queries)
        page = await world.page(arm="plain")
        assert len(world.rankers[0].queries) == asked
    assert keys_of(item_ids(page)).tolist() == blended(world)[:20]
    assert page.degradations == ()
    assert (page.versions.ranking, page.versions.ranker) == ("", "none")
    scores = [item.score for item in page.items]
    assert scores == sorted(scores, reverse=True)


async def test_the_ranker_sees_the_fused_order_that_it_is_given() -> None:
    async with a_world(config=CONFIG) as world:
        await world.page()
    fused = world.rankers[0].queries[-1].candidates.fused
    assert len(fused) == 280
    assert (np.diff(fused) <= 0).all()
    assert (fused > 0).all()


@pytest.mark.parametrize(
    ("default", "sent", "answers"),
    [("upside_down", "upside_down", "upside_down"), ("ensemble", "", "key")],
)
async def test_the_configured_default_is_asked_for_where_it_is_offered(
    default: str, sent: str, answers: str
) -> None:
    async with a_world(config=with_default(default)) as world:
        page = await world.page()
    assert world.rankers[0].queries[-1].model == sent
    assert page.versions.ranker == answers
    assert page.degradations == ()


async def test_the_default_may_be_no_ranker() -> None:
    async with a_world(config=with_default("none")) as world:
        page = await world.page()
    assert world.rankers[0].queries == []
    assert page.versions.ranker == "none"


async def test_an_unknown_arm_is_refused_naming_the_known_ones() -> None:
    async with a_world(config=CONFIG) as world:
        with pytest.raises(InvalidRequest, match="known: plain, trees") as refused:
            await world.page(arm="oracle")
        assert [field for field, _ in refused.value.violations] == ["arm"]
        with pytest.raises(InvalidRequest, match="known: plain, trees"):
            await world.recommender.rank(RankRequest(item_ids=("i1",), arm="oracle"))


async def test_arms_of_rankers_that_are_not_offered_are_refused_at_the_start() -> None:
    arms = {**ARMS, "odd": ArmConfig(ranker="oracle")}
    world = a_world(config=Config(ranking=RankingConfig(arms=arms)))
    with pytest.raises(InvalidRequest, match="known: key, none, upside_down") as refused:
        await world.recommender.start()
    await world.recommender.close()
    assert [field for field, _ in refused.value.violations] == ["ranking.arms.odd.ranker"]


async def test_it_starts_while_no_ranker_says_what_it_offers() -> None:
    arms = {"odd": ArmConfig(ranker="oracle")}
    world = a_world(config=Config(ranking=RankingConfig(arms=arms)))
    world.rankers[0].fails = TierUnavailable("down")
    async with world:
        world.rankers[0].fails = None
        assert (await world.page()).degradations == ()
        page = await world.page(arm="odd")
    # Never silently another ranker's page: it would spoil the experiment.
    assert reasons(page) == ["RANKER_FALLBACK"]
    assert "unknown ranker 'oracle'" in page.degradations[0].detail
    assert (page.versions.ranker, page.versions.arm) == ("", "odd")


async def test_the_default_is_only_asked_for_where_every_replica_offers_it() -> None:
    config = Config(ranking=RankingConfig(default="upside_down"))
    world = a_world(config=config, rankers=2)
    world.rankers[1].models = ("key",)  # a rollout is under way
    async with world:
        pages = [await world.page() for _ in range(4)]
    assert {page.versions.ranker for page in pages} == {"key"}
    assert all(page.degradations == () for page in pages)


async def test_a_listing_keeps_its_arm() -> None:
    async with a_world(config=CONFIG) as world:
        first = await world.page(arm="trees")
        second = await world.page(arm="trees", page_token=first.next_page_token)
        assert second.versions.ranker == "upside_down"
        with pytest.raises(InvalidRequest, match="other parameters"):
            await world.page(arm="plain", page_token=first.next_page_token)


async def test_the_attribution_token_names_ranker_and_arm() -> None:
    async with a_world(config=CONFIG) as world:
        trees = Attribution.decode((await world.page(arm="trees")).attribution_token)
        default = Attribution.decode((await world.page()).attribution_token)
    assert (trees.ranker, trees.arm) == ("upside_down", "trees")
    assert (default.ranker, default.arm) == ("key", "")


async def test_ranking_the_callers_items_knows_arms_too() -> None:
    ids = ("i4", "i1", "i30", "i2")
    async with a_world(config=CONFIG) as world:
        by_key, trees, plain = [
            await world.recommender.rank(RankRequest(item_ids=ids, arm=arm))
            for arm in ("", "trees", "plain")
        ]
    assert [item.id for item in trees.items] == [item.id for item in by_key.items][::-1]
    assert [item.id for item in plain.items] == list(ids)  # the caller's order
    assert (plain.versions.ranker, plain.versions.arm) == ("none", "plain")
    assert plain.degradations == ()


async def test_arms_are_the_same_over_remote_tiers() -> None:
    config = CONFIG.model_copy(update={"retrieval": RetrievalConfig(candidates=100)})
    async with a_world(config=config) as world, distributed(world, config) as remote:
        for arm in ("", *ARMS):
            here = await world.page(arm=arm)
            there = await remote.recommend(PageRequest(user_id="ann", arm=arm))
            assert there.items == here.items
            assert there.versions == here.versions
