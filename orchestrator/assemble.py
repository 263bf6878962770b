"""The whole recommender as one visible list of stages: to change what a page is, begin here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from orchestrator.blend import Blend
from orchestrator.cards import Describe, LookUp
from orchestrator.fanout import ShardFanout
from orchestrator.filters import (
    ExcludedItemsFilter,
    Filter,
    Filters,
    SeenItemsFilter,
    ShownItemsFilter,
)
from orchestrator.models import RankerModels
from orchestrator.opening import RequestOpener
from orchestrator.pipeline import Pipeline, Recommender
from orchestrator.profile import ReadProfile
from orchestrator.rail import PopularRail
from orchestrator.rank import Rank
from orchestrator.replicas import Replicas
from orchestrator.respond import Respond, RespondRanking, RespondSimilar
from orchestrator.retrieve import ItemKnown, Retrieve
from orchestrator.slate import Slate
from orchestrator.versions import IndexVersionTracker
from shortlist.config import Config
from shortlist.schema import EventType
from shortlist.stores import ProfileStore
from shortlist.tiers import Ranker, Retriever

__all__ = ["assemble"]


def assemble(
    config: Config,
    shards: Sequence[Sequence[Retriever]],
    rankers: Sequence[Ranker],
    profiles: ProfileStore,
    *,
    events: Mapping[str, EventType] | None = None,
    clock: Callable[[], float] = time.time,
) -> Recommender:
    """Put the parts together; nothing is asked before `Recommender.start`.

    Args:
        shards: by shard its replicas, local or remote (I7).
        rankers: replicas of the ranker.
        events: the schema's event types; none means that every type counts as 1.
        clock: seconds since 1970, for requests that name no time.
    """
    groups = [Replicas(replicas) for replicas in shards]
    scorers = Replicas(rankers)
    versions = IndexVersionTracker(groups)
    fanout = ShardFanout(groups, versions)
    rail = PopularRail(fanout)
    filters: list[Filter] = [SeenItemsFilter(), ExcludedItemsFilter(), ShownItemsFilter()]
    models = RankerModels(scorers)
    retrieve = Retrieve(fanout, rail, filters)
    blend = Blend(config.retrieval.candidates, config.retrieval.guaranteed)
    describe = Describe(fanout, config.slate.pool)

    pages = Pipeline(
        [
            ReadProfile(profiles, config.serving.history_length),
            retrieve,
            blend,
            Filters(filters),
            Rank(scorers),
            describe,
            Slate(describe),
            Respond(),
        ]
    )
    rankings = Pipeline(
        [
            ReadProfile(profiles, config.serving.history_length),
            LookUp(fanout),
            Rank(scorers),
            RespondRanking(),
        ]
    )

    similar = Pipeline(
        [
            ReadProfile(profiles, config.serving.history_length),
            retrieve,
            ItemKnown(),
            blend,
            Filters(filters),
            describe,
            Slate(describe),
            RespondSimilar(),
        ]
    )

    async def close() -> None:
        await asyncio.gather(fanout.close(), *(ranker.close() for ranker in rankers))
        await profiles.close()

    return Recommender(
        pages=pages,
        rankings=rankings,
        similar=similar,
        serving=config.serving,
        opener=RequestOpener(config, events or {}, versions, rail, models, clock),
        versions=versions,
        rail=rail,
        models=models,
        close=close,
    )
