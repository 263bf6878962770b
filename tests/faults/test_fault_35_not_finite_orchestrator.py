"""Fault 35, the orchestrator's share: NaN or Inf in a request field -> INVALID_ARGUMENT naming it;
a ranker whose answer is not finite counts as one that did not answer."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from ranking_svc.ranker import ScoresNotFinite
from shortlist.client import AsyncClient
from shortlist.errors import InvalidRequest
from shortlist.page import PageRequest, RecentEvent
from tests.orchestrator.wire import distributed, served
from tests.orchestrator.world import KeyRanker, World, a_world, reasons


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("fields", "path"),
    [
        (lambda bad: {"user_attributes": {"age": bad}}, 'user.attributes["age"]'),
        (lambda bad: {"context": {"hour": bad}}, 'context["hour"]'),
        (
            lambda bad: {"recent_events": (RecentEvent(item_id="i1", value=bad),)},
            "user.recent_events[0].value",
        ),
        (lambda bad: {"diversity": bad}, "diversity.strength"),
        (lambda bad: {"min_coverage": bad}, "min_coverage"),
    ],
    ids=["attribute", "context", "value", "diversity", "min_coverage"],
)
async def test_a_number_that_is_not_finite_is_refused_and_named(
    world: World, fields: Any, path: str, bad: float
) -> None:
    async with served(world.recommender) as target, AsyncClient(target) as client:
        with pytest.raises(InvalidRequest) as refused:
            await client.recommend(PageRequest(**fields(bad)))
    assert [field for field, _ in refused.value.violations] == [path]


class NotFinite(KeyRanker):
    """One score of its answer is not a number that can be sorted."""

    def __init__(self, bad: float) -> None:
        super().__init__()
        self._bad = bad

    async def score(self, query: Any) -> Any:
        answer = await super().score(query)
        answer.scores[3] = self._bad
        return answer


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
async def test_a_ranker_that_answers_nonsense_is_a_ranker_that_does_not_answer(
    bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        score = NotFinite(bad).score
        monkeypatch.setattr(world.rankers[0], "score", score)
        here = await world.page()
        async with distributed(world) as remote:
            there = await remote.recommend(PageRequest(user_id="ann"))
    for page in (here, there):
        assert reasons(page) == ["RANKER_FALLBACK"]
        assert len(page.items) == 20
        assert all(math.isfinite(item.score) for item in page.items)
        assert page.versions.ranking == ""


async def test_scores_of_a_wrong_length_are_nonsense_too(world: World) -> None:
    world.rankers[0].answers = np.ones(3, np.float32)
    assert reasons(await world.page()) == ["RANKER_FALLBACK"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
async def test_a_shard_whose_fusion_is_nonsense_is_a_shard_that_does_not_answer(
    world: World, bad: float
) -> None:
    world.shards[0].fusion = {"popular": (bad, 60.0)}
    world.shards[1].fusion = {"two_tower": (1.0, 60.0)}
    async with distributed(world) as remote:
        page = await remote.recommend(PageRequest(user_id="ann"))
    assert reasons(page) == ["SHARD_DOWN"]
    assert "weight" in page.degradations[0].detail
    assert len(page.items) == 20


async def test_a_sound_replica_makes_good_for_a_broken_one() -> None:
    async with a_world(rankers=2) as world:
        world.rankers[0].answers = np.full(3, np.nan, np.float32)
        for _ in range(3):
            assert (await world.page()).degradations == ()


async def test_a_sound_replica_makes_good_for_one_that_notices_that_it_is_broken() -> None:
    for broken in range(2):
        async with a_world(rankers=2) as world:
            world.rankers[broken].fails = ScoresNotFinite("version v1 gave 2 scores")
            async with distributed(world) as remote:
                for _ in range(3):
                    assert (await world.page()).degradations == ()
                    page = await remote.recommend(PageRequest(user_id="ann"))
                    assert page.degradations == ()
