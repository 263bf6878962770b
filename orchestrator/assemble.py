"""The whole recommender as one visible list of stages: to change what a page is, begin here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from orchestrator.blend import Blend
from orchestrator.cards import Describe, LookUp
from orchestrator.catalog import Catalog
from orchestrator.demands import Demands
from orchestrator.events import EventIntake
from orchestrator.fanout import ShardFanout
from orchestrator.filters import (
    ExcludedItemsFilter,
    Filter,
    Filters,
    SeenItemsFilter,
    ShownItemsFilter,
)
from orchestrator.gone import UnavailableItems, UnavailableItemsFilter
from orchestrator.impressions import ImpressionLog
from orchestrator.index_wait import IndexWait
from orchestrator.live_state import LiveState
from orchestrator.models import RankerModels
from orchestrator.opening import RequestOpener
from orchestrator.pipeline import Pipeline, Recommender, begin
from orchestrator.profile import ReadProfile
from orchestrator.rail import PopularRail
from orchestrator.rank import Rank
from orchestrator.replicas import Replicas
from orchestrator.respond import Respond, RespondRanking, RespondSimilar
from orchestrator.retrieve import ItemKnown, Retrieve
from orchestrator.rollout import Rollout
from orchestrator.shadow import Shadow
from orchestrator.slate import Slate
from orchestrator.stages import Ask, Draft
from orchestrator.versions import IndexVersionTracker
from shortlist.config import Config
from shortlist.schema import Schema
from shortlist.stores import ProfileStore, Store
from shortlist.telemetry import Watches
from shortlist.tiers import Ranker, Retriever

__all__ = ["assemble"]


def assemble(
    config: Config,
    shards: Sequence[Sequence[Retriever]],
    rankers: Sequence[Ranker],
    profiles: ProfileStore,
    *,
    store: Store | None = None,
    schema: Schema | None = None,
    clock: Callable[[], float] = time.time,
    watches: Watches | None = None,
) -> Recommender:
    """Put the parts together; nothing is asked before `Recommender.start`.

    Args:
        shards: by shard its replicas, local or remote (I7).
        rankers: replicas of the ranker.
        profiles: where histories are read; usually the store.
        store: takes in events and changes of the catalogue; without one there are none.
        schema: event types and features; without one every type counts as 1, and any attribute is
            taken.
        clock: seconds since 1970, for requests that name no time.
        watches: hear of every page and event; without, nobody does.
    """
    watches = watches or Watches()
    share, attempts = config.serving.extra_attempts, watches.attempts
    groups = [
        Replicas(replicas, extra_share=share, tier="retrieval", watch=attempts)
        for replicas in shards
    ]
    scorers = Replicas(rankers, extra_share=share, tier="ranking", watch=attempts)
    versions = IndexVersionTracker(groups)
    fanout = ShardFanout(groups, versions)
    rail = PopularRail(fanout, Demands(config.serving.filter))
    gone = UnavailableItems(store, clock)
    # What a shard cannot know is part of the question; what is gone it knows from the same log.
    asked: list[Filter] = [SeenItemsFilter(), ExcludedItemsFilter(), ShownItemsFilter()]
    filters: list[Filter] = [*asked, UnavailableItemsFilter(gone)]
    models = RankerModels(scorers)
    retrieve = Retrieve(fanout, rail, asked, gone)
    blend = Blend(config.retrieval.candidates, config.retrieval.guaranteed)
    describe = Describe(fanout, config.slate.pool)

    pages = Pipeline(
        [
            ReadProfile(profiles, config.serving.history_length),
            retrieve,
            blend,
            Filters(filters),
            Rank(scorers, models),
            describe,
            Slate(describe),
            Respond(),
        ],
        name="recommend",
        watch=watches.pages,
    )
    rankings = Pipeline(
        [
            ReadProfile(profiles, config.serving.history_length),
            LookUp(fanout, gone),
            Rank(scorers, models),
            RespondRanking(),
        ],
        name="rank",
        watch=watches.pages,
    )

    similar = Pipeline(
        [
            ReadProfile(profiles, config.serving.history_length),
            retrieve,
            ItemKnown(gone),
            blend,
            Filters(filters),
            describe,
            Slate(describe),
            RespondSimilar(),
        ],
        name="similar",
        watch=watches.pages,
    )

    unwatched = Pipeline(pages.stages)

    async def make_unseen(ask: Ask) -> Draft:
        draft, _ = await unwatched.run(begin(ask))
        return draft

    shadow = Shadow(make_unseen, config.shadow, config.serving)
    rollout = Rollout(versions, models, shadow, config.canary, clock)
    events = schema.events if schema else {}
    live = LiveState(
        gone=gone,
        impressions=ImpressionLog(store),
        events=EventIntake(store, schema, config.store, clock, watches.events, rollout.hear)
        if store
        else None,
        catalog=Catalog(store, schema, IndexWait(groups, gone, config.serving.reserve_ms))
        if store
        else None,
    )

    async def close() -> None:
        await asyncio.gather(fanout.close(), *(ranker.close() for ranker in rankers))
        await profiles.close()
        if store is not None and store is not profiles:
            await store.close()

    return Recommender(
        pages=pages,
        rankings=rankings,
        similar=similar,
        serving=config.serving,
        opener=RequestOpener(config, events, versions, rail, models, rollout, clock),
        versions=versions,
        rail=rail,
        models=models,
        rollout=rollout,
        live=live,
        close=close,
    )
