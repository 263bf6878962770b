"""Arms of an experiment: what each may decide, who gets it, and what says so afterwards."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

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


# -- more than a ranker ---------------------------------------------------------------------------


def with_arms(arms: dict[str, ArmConfig], **sections: object) -> Config:
    ranking = RankingConfig(default="none", arms=arms)
    return Config.model_validate({"ranking": ranking, **sections})


async def test_an_arm_weighs_sources_in_the_blend() -> None:
    arms = {
        "popular": ArmConfig(multipliers={"two_tower": 0.0}),
        "taste": ArmConfig(weights={"popular": 0.0, "two_tower": 1.0}),
        "doubled": ArmConfig(multipliers={"two_tower": 2.0, "popular": 2.0}),
    }
    config = with_arms(arms, slate=SlateConfig(diversity=0.0))
    async with a_world(config=config) as world:
        plain, popular, taste, doubled = [
            await world.page(arm=arm) for arm in ("", "popular", "taste", "doubled")
        ]
        only = {source: await world.page(sources=(source,)) for source in ("two_tower", "popular")}
    assert item_ids(popular) == item_ids(only["popular"])
    assert item_ids(taste) == item_ids(only["two_tower"])
    assert item_ids(doubled) == item_ids(plain)
    assert len({tuple(item_ids(page)) for page in (plain, popular, taste)}) == 3


async def test_an_arm_has_quotas_of_its_own() -> None:
    arms = {"few": ArmConfig(quotas={"two_tower": 0, "popular": 30})}
    async with a_world(config=with_arms(arms), shards=1) as world:
        page = await world.page(arm="few")
        named = await world.page(arm="few", quotas={"popular": 40})
        few, other = world.shards[0].queries[-2:]
    assert few.quotas == {"popular": 30}
    assert other.quotas == {"popular": 40}
    assert {item.sources for item in (*page.items, *named.items)} == {("popular",)}


async def test_an_arm_has_a_slate_of_its_own_and_the_request_the_last_word() -> None:
    arms = {"varied": ArmConfig(diversity=0.9, caps={"genre": 2}, minimums={"popular": 0})}
    slate = SlateConfig(page_size=10, diversity=0.0, caps={"genre": 5}, minimums={"popular": 9})
    async with a_world(config=with_arms(arms, slate=slate)) as world:
        varied = await world.page(arm="varied", return_attributes=("genre",))
        plain = await world.page()
        asked = await world.page(
            arm="varied", caps={"genre": 3}, diversity=0.0, return_attributes=("genre",)
        )
    assert most_of_a_genre(varied) == 2
    assert most_of_a_genre(asked) == 3
    assert sum("popular" in item.sources for item in plain.items) >= 9
    assert item_ids(varied) != item_ids(plain)


def most_of_a_genre(page: Page) -> int:
    return max(Counter(str(item.attributes["genre"]) for item in page.items).values())


async def test_an_arm_that_names_no_ranker_has_the_default_one() -> None:
    ranking = RankingConfig(default="upside_down", arms={"wide": ArmConfig(diversity=0.5)})
    async with a_world(config=Config(ranking=ranking)) as world:
        page = await world.page(arm="wide")
    assert (page.versions.ranker, page.versions.arm) == ("upside_down", "wide")


SHARED = {
    "trees": ArmConfig(ranker="upside_down", share=0.3),
    "plain": ArmConfig(ranker="none", share=0.2),
    "named_only": ArmConfig(ranker="none"),
}


async def test_users_of_requests_without_an_arm_are_shared_out_and_stay_where_they_are() -> None:
    config = Config(ranking=RankingConfig(arms=SHARED))
    async with a_world(config=config) as world:
        arms = {}
        for user in (f"u{n}" for n in range(80)):
            first, second = await world.page(user), await world.page(user)
            ranking = await world.recommender.rank(RankRequest(item_ids=("i1",), user_id=user))
            assert first.versions.arm == second.versions.arm == ranking.versions.arm
            arms[user] = first.versions.arm
            assert Attribution.decode(first.attribution_token).arm == arms[user]
            assert first.versions.ranker == {"trees": "upside_down", "plain": "none"}.get(
                arms[user], "key"
            )
        named = await world.page("u1", arm="named_only")
    counts = Counter(arms.values())
    assert counts.keys() == {"", "trees", "plain"}
    assert 12 < counts["trees"] < 36
    assert 6 < counts["plain"] < 28
    assert named.versions.arm == "named_only"


async def test_all_pages_of_a_listing_share_the_arm_that_its_first_page_was_given() -> None:
    config = Config(ranking=RankingConfig(arms=SHARED))
    async with a_world(config=config) as world:
        for n in range(20):  # nobody in particular: every request is somebody else
            first = await world.page("", request_id=f"a{n}")
            second = await world.page("", request_id=f"b{n}", page_token=first.next_page_token)
            assert second.versions.arm == first.versions.arm


def test_shares_beyond_everybody_are_refused_naming_the_field(tmp_path: Path) -> None:
    file = tmp_path / "shortlist.yaml"
    file.write_text("ranking: {arms: {a: {share: 0.7}, b: {share: 0.4}}}")
    with pytest.raises(InvalidRequest, match=r"add up to 1\.1") as refused:
        Config.load(file)
    assert [field for field, _ in refused.value.violations] == ["ranking.arms"]


async def test_names_that_nothing_has_are_refused_at_the_start_each_by_its_field() -> None:
    odd = ArmConfig(
        weights={"twotower": 1.0},
        multipliers={"poplar": 1.0},
        quotas={"fersh": 3},
        minimums={"new": 1},
        caps={"colour": 2},
    )
    world = a_world(config=Config(ranking=RankingConfig(arms={"odd": odd})))
    with pytest.raises(InvalidRequest) as refused:
        await world.recommender.start()
    await world.recommender.close()
    assert [field for field, _ in refused.value.violations] == [
        "ranking.arms.odd.caps.colour",
        "ranking.arms.odd.weights.twotower",
        "ranking.arms.odd.multipliers.poplar",
        "ranking.arms.odd.quotas.fersh",
        "ranking.arms.odd.minimums.new",
    ]
