"""What an orchestrator tells its watches, end to end."""

from __future__ import annotations

import asyncio

import pytest

from shortlist.client import AsyncClient
from shortlist.config import Config, StoreConfig
from shortlist.errors import ShortlistError, TierUnavailable
from shortlist.metrics import Metrics
from shortlist.page import PageRequest, RankRequest
from shortlist.stores.memory import MemoryStore
from tests.orchestrator.live import HeldStore, an_event
from tests.orchestrator.wire import served
from tests.orchestrator.world import a_world


def value(metrics: Metrics, sample: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(sample, labels)


async def test_pages_and_rankings_are_counted_by_stage() -> None:
    metrics = Metrics("orchestrator")
    async with (
        a_world(watches=metrics.watches) as world,
        served(world.recommender, watch=metrics.calls) as target,
        AsyncClient(target) as client,
    ):
        for _ in range(3):
            page = await client.recommend(PageRequest(user_id="ann"))
        await client.rank(RankRequest(user_id="ann", item_ids=("i1", "i2")))
        stages = world.recommender.stages
    for stage in stages:
        labels = {"pipeline": "recommend", "stage": stage}
        assert value(metrics, "shortlist_stage_seconds_count", **labels) == 3
    respond = {"pipeline": "recommend", "stage": "respond"}
    assert value(metrics, "shortlist_stage_items_total", **respond) == 3 * len(page.items)
    assert value(metrics, "shortlist_stage_items_total", pipeline="rank", stage="respond") == 2
    assert value(metrics, "shortlist_coverage_ratio_sum", pipeline="recommend") == 3
    method = {"service": "shortlist.v1.Orchestrator", "method": "Recommend"}
    assert value(metrics, "shortlist_calls_total", **method, status="OK") == 3


async def test_a_shard_that_is_down_shows_as_degradation_and_coverage() -> None:
    metrics = Metrics("orchestrator")
    async with a_world(watches=metrics.watches) as world:
        world.shards[0].fails = TierUnavailable("away")
        await world.page("ann")
    reason = {"pipeline": "recommend", "reason": "SHARD_DOWN"}
    assert value(metrics, "shortlist_degradations_total", **reason) == 1
    covered = value(metrics, "shortlist_coverage_ratio_sum", pipeline="recommend")
    assert covered is not None
    assert 0 < covered < 1


async def test_events_are_counted_by_what_became_of_them() -> None:
    metrics = Metrics("orchestrator")
    config = Config(store=StoreConfig(queue_events=2))
    async with a_world(config=config, store=MemoryStore(), watches=metrics.watches) as world:
        known = an_event()
        await world.recommender.record_events([known])
        await world.recommender.record_events([known, an_event(), an_event(item_id="")])
        assert value(metrics, "shortlist_events_waiting") == 0
    assert value(metrics, "shortlist_events_waiting_limit") == 2
    outcomes = {
        outcome: value(metrics, "shortlist_events_total", outcome=outcome)
        for outcome in ("accepted", "duplicate", "refused", "turned_away")
    }
    assert outcomes == {"accepted": 2, "duplicate": 1, "refused": 1, "turned_away": None}


async def test_events_that_find_the_queue_full_are_turned_away() -> None:
    metrics = Metrics("orchestrator")
    config = Config(store=StoreConfig(queue_events=2))
    store = HeldStore()
    async with a_world(config=config, store=store, watches=metrics.watches) as world:
        stuck = asyncio.create_task(world.recommender.record_events([an_event(), an_event()]))
        await store.all_wait(1)
        assert value(metrics, "shortlist_events_waiting") == 2
        with pytest.raises(ShortlistError):
            await world.recommender.record_events([an_event()])
        store.go.set()
        await stuck
    assert value(metrics, "shortlist_events_total", outcome="turned_away") == 1
