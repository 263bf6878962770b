"""One shard in this process, behind the same protocol as one across the network (I7)."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from retrieval_svc.generation import Generation
from retrieval_svc.live import LiveGeneration
from retrieval_svc.recall_monitor import RecallMonitor
from retrieval_svc.rows import Keys
from retrieval_svc.slice_files import RetrievalMeta, slice_bytes
from retrieval_svc.versions import TIER, LoadedGenerations
from shortlist.artifacts import Artifact, ArtifactStore
from shortlist.errors import ArtifactRefused, BudgetExceeded
from shortlist.memory import check_head_room
from shortlist.short_work import ShortWork, ends_by
from shortlist.starting import starting_versions
from shortlist.stores import Store
from shortlist.tiers import ItemCards, RetrievedSlice, RetrieveQuery, RetrieverStatus

__all__ = ["Generation", "LiveGeneration", "LoadedGenerations", "LocalRetriever"]

# 0.2 ms without groups, 0.75 ms with them: about the way to another thread and back.
_FEW_CARDS = 256


class LocalRetriever:
    """A `shortlist.tiers.Retriever` over the versions that this process holds.

    With a store it follows the log of changes, once it is started. Queries run on a few threads:
    numpy and ScaNN release the interpreter, and the event loop goes on. Where the process is there
    for nothing else (`on_loop`), one that comes alone runs on the event loop; see `ShortWork`.
    """

    def __init__(
        self,
        versions: LoadedGenerations,
        *,
        threads: int = 2,
        on_loop: bool = False,
        recall: RecallMonitor | None = None,
    ) -> None:
        self.versions = versions
        self._recall = recall
        name = f"shard-{versions.active.generation.shard}"
        self._work = ShortWork(threads, name=name, on_loop=on_loop)

    @classmethod
    def open(
        cls,
        store: ArtifactStore,
        shard: int,
        version: str | None = None,
        *,
        threads: int = 2,
        on_loop: bool = False,
        live: Store | None = None,
        shards: int | None = None,
        memory_factor: float = 0.0,
        verified: Artifact | None = None,
        recall: RecallMonitor | None = None,
    ) -> LocalRetriever:
        """Load one shard of `version`, or of what `starting_versions` names for so many `shards`.

        `live` has the log that it follows. Another version is loaded only where `memory_factor`
        times the size of its files is free. `verified` is an artifact that the caller has opened.
        `recall` looks at some of the answers, and is closed with the shard.
        Raises `ArtifactNotFound`, `ArtifactCorrupt`, `ArtifactRefused` or `ScannUnavailable`.
        """

        def first(version: str) -> LiveGeneration:
            known = verified if verified and verified.version == version else None
            artifact = known or store.open(TIER, version)
            return LiveGeneration(Generation.open(artifact, shard), recall=recall)

        def beside(version: str) -> LiveGeneration:
            artifact = store.open(TIER, version)
            _refuse_other_shards(artifact, versions.active.generation.shards)
            what = f"shard {shard} of {TIER} {version}"
            check_head_room(what, slice_bytes(artifact, shard), factor=memory_factor)
            return LiveGeneration(Generation.open(artifact, shard), recall=recall)

        def wanted() -> list[str]:
            return starting_versions(store, TIER, version, shards=shards)

        versions = LoadedGenerations.starting(wanted, first, beside, store=live)
        return cls(versions, threads=threads, on_loop=on_loop, recall=recall)

    async def start(self) -> None:
        """Catch up with the log and follow it; before the first question. Raises as the store."""
        await self.versions.start()

    @property
    def name(self) -> str:
        return f"local/{self.versions.active.generation.shard}"

    async def retrieve(self, query: RetrieveQuery) -> RetrievedSlice:
        """Raises `VersionNotServed`, or `BudgetExceeded` when no thread was free in time."""
        end = ends_by(query.deadline_ms)
        with self.versions.asked(query.index_version) as generation:
            known = self.versions.position(generation.version)  # at least; before it is asked

            def answer() -> RetrievedSlice:
                if time.perf_counter() >= end:
                    raise BudgetExceeded(f"{query.deadline_ms} ms passed before the search began")
                return generation.retrieve(query, end)

            # A new filter is first compared with every item of the slice.
            found = await self._work.run(answer, may_be_long=bool(query.filter))
            return replace(found, log=known)

    async def describe(
        self, keys: Keys, fields: tuple[str, ...], index_version: str | None, groups: bool = True
    ) -> ItemCards:
        """Raises `VersionNotServed`, or `InvalidField` for a feature that the items lack."""
        with self.versions.asked(index_version) as generation:
            if len(keys) <= _FEW_CARDS:
                return generation.describe(keys, fields, groups)
            return await self._work.run(lambda: generation.describe(keys, fields, groups))

    async def status(self) -> RetrieverStatus:
        active, *others = map(self._status, self.versions.active_first)
        return replace(active, others=tuple(others))

    async def close(self) -> None:
        await self.versions.close()
        for one in self.versions.loaded:
            await asyncio.to_thread(one.close)
        self._work.close()
        if self._recall is not None:
            self._recall.close()

    def _status(self, one: LiveGeneration) -> RetrieverStatus:
        published = one.generation
        return RetrieverStatus(
            shard=published.shard,
            shards=published.shards,
            index_version=published.version,
            items=one.snapshot.items,
            items_total=published.items_total,
            sources=tuple(published.sources),
            watermark_ms=published.watermark_ms,
            log=self.versions.position(published.version),
        )


def _refuse_other_shards(artifact: Artifact, shards: int) -> None:
    """A slice of another division is not what its place in the system should hold."""
    if (others := RetrievalMeta.of(artifact).shards) != shards:
        raise ArtifactRefused(
            f"{artifact.version} is divided over {others} shards, this system runs {shards}"
        )
