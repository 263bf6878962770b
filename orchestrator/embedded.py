"""Everything in one process: the only module that imports the tiers (I7)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from orchestrator.assemble import assemble
from orchestrator.pipeline import Recommender
from ranking_svc.ranker import LocalRanker
from retrieval_svc.generation import Generation
from retrieval_svc.live import LiveGeneration
from retrieval_svc.shard import LocalRetriever
from retrieval_svc.slice_files import RetrievalMeta
from retrieval_svc.versions import TIER, LoadedGenerations
from shortlist.artifacts import Artifact, ArtifactStore
from shortlist.config import Config
from shortlist.schema import Schema
from shortlist.stores import ProfileStore, Store
from shortlist.stores.opening import open_store
from shortlist.telemetry import Watches

__all__ = ["embedded"]


async def embedded(
    workdir: Path,
    *,
    profiles: ProfileStore | None = None,
    retrieval_version: str | None = None,
    ranking_version: str | None = None,
    artifacts: str | Path | None = None,
    config: Config | None = None,
    watches: Watches | None = None,
) -> Recommender:
    """A started recommender over the workdir's artifacts; close it in the end.

    Without versions the current ones are served; profiles, artifacts and configuration are the
    workdir's unless given. Given profiles are all that is known of users: then nothing is taken in
    and nothing of the workdir's store shows. `watches` hear of pages and events. Loading runs off
    the event loop. Raises `ArtifactNotFound`, `ArtifactCorrupt`, `ArtifactRefused`.
    """
    config = config or Config.load(workdir / "shortlist.yaml")
    versions = ArtifactStore(artifacts or workdir / "artifacts")
    store = open_store(config.store, workdir)
    shards, ranker = await asyncio.gather(
        asyncio.to_thread(_shards, versions, retrieval_version, None if profiles else store),
        asyncio.to_thread(
            LocalRanker.open,
            versions,
            ranking_version,
            config.ranking,
            live=None if profiles else store,
        ),
    )
    recommender = assemble(
        config,
        [[shard] for shard in shards],
        [ranker],
        profiles or store,
        store=None if profiles else store,
        schema=Schema.load(workdir / "schema.yaml"),
        watches=watches,
    )
    try:
        await asyncio.gather(ranker.start(), *(shard.start() for shard in shards))
        await recommender.start()
    except BaseException:
        await recommender.close()
        raise
    return recommender


def _shards(store: ArtifactStore, version: str | None, live: Store | None) -> list[LocalRetriever]:
    """One local shard per slice of the version, which is verified once."""
    artifact = store.open(TIER, version)
    numbers = range(RetrievalMeta.of(artifact).shards)
    return [_shard(store, artifact, number, live) for number in numbers]


def _shard(
    store: ArtifactStore, artifact: Artifact, number: int, live: Store | None
) -> LocalRetriever:
    def load(version: str) -> LiveGeneration:
        return LiveGeneration(Generation.open(store.open(TIER, version), number))

    first = LiveGeneration(Generation.open(artifact, number))
    return LocalRetriever(LoadedGenerations(first, load, store=live))
