from __future__ import annotations

from orchestrator.models import RankerModels
from orchestrator.replicas import Replicas
from shortlist.errors import TierUnavailable
from tests.orchestrator.world import KeyRanker


async def test_nothing_is_known_before_a_ranker_was_reached() -> None:
    ranker = KeyRanker()
    ranker.fails = TierUnavailable("down")
    models = RankerModels(Replicas([ranker]))
    assert models.offered is None
    await models.refresh()
    assert models.offered is None
    ranker.fails = None
    await models.refresh()
    assert models.offered == {"key", "upside_down"}


async def test_offered_is_what_every_replica_in_reach_offers() -> None:
    rankers = [KeyRanker(), KeyRanker(), KeyRanker()]
    rankers[1].models = ("key",)
    rankers[2].fails = ZeroDivisionError("a bug")
    models = RankerModels(Replicas(rankers))
    await models.refresh()
    assert models.offered == {"key"}


async def test_what_was_known_stays_while_no_ranker_answers() -> None:
    ranker = KeyRanker()
    models = RankerModels(Replicas([ranker]))
    await models.refresh()
    ranker.fails = TierUnavailable("down")
    await models.refresh()
    assert models.offered == {"key", "upside_down"}


async def test_a_ranker_that_lists_no_models_does_not_say() -> None:
    silent, talkative = KeyRanker(), KeyRanker()
    silent.models = ()
    models = RankerModels(Replicas([silent]))
    await models.refresh()
    assert models.offered is None
    models = RankerModels(Replicas([silent, talkative]))
    await models.refresh()
    assert models.offered == {"key", "upside_down"}


async def test_no_rankers_offer_nothing_that_is_known() -> None:
    models = RankerModels(Replicas[KeyRanker]([]))
    await models.refresh()
    assert models.offered is None
