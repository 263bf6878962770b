"""Everything in one process: the only module that imports the tiers (I7)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from orchestrator.assemble import assemble
from orchestrator.pipeline import Recommender
from ranking_svc.ranker import LocalRanker
from retrieval_svc.recall_monitor import RecallMonitor
from retrieval_svc.shard import LocalRetriever
from retrieval_svc.slice_files import RetrievalMeta
from retrieval_svc.versions import TIER
from shortlist.artifacts import ArtifactStore
from shortlist.config import Config
from shortlist.schema import Schema
from shortlist.starting import starting_versions
from shortlist.stores import ProfileStore, Store
from shortlist.stores.opening import open_store
from shortlist.telemetry import Watches
from shortlist.versions import VersionsTogether

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
    and nothing of the workdir's store shows. `watches` hear of pages, events and recall. Loading
    runs off the event loop. Raises `ArtifactNotFound`, `ArtifactCorrupt`, `ArtifactRefused`.
    """
    config = config or Config.load(workdir / "shortlist.yaml")
    versions = ArtifactStore(artifacts or workdir / "artifacts")
    store = open_store(config.store, workdir)
    shards, ranker = await asyncio.gather(
        asyncio.to_thread(
            _shards,
            versions,
            retrieval_version,
            None if profiles else store,
            config,
            watches or Watches(),
        ),
        asyncio.to_thread(
            LocalRanker.open,
            versions,
            ranking_version,
            config.ranking,
            live=None if profiles else store,
            memory_factor=config.deployment.memory_factor,
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
    recommender.inside = {
        "retrieval": VersionsTogether([shard.versions for shard in shards]),
        "ranking": ranker.versions,
    }
    try:
        await asyncio.gather(ranker.start(), *(shard.start() for shard in shards))
        await recommender.start()
    except BaseException:
        await recommender.close()
        raise
    return recommender


def _shards(
    store: ArtifactStore,
    version: str | None,
    live: Store | None,
    config: Config,
    watches: Watches,
) -> list[LocalRetriever]:
    """One local shard per slice of the version, which is verified once."""
    artifact = store.open(TIER, starting_versions(store, TIER, version)[0])
    return [
        LocalRetriever.open(
            store,
            shard,
            version,
            live=live,
            memory_factor=config.deployment.memory_factor,
            verified=artifact,
            recall=RecallMonitor.wanted(config.serving.recall_share, watches.recall),
        )
        for shard in range(RetrievalMeta.of(artifact).shards)
    ]
