"""One shard in this process, behind the same protocol as one across the network (I7)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from retrieval_svc.generation import Generation
from retrieval_svc.rows import Keys
from retrieval_svc.versions import TIER, LoadedGenerations
from shortlist.artifacts import ArtifactStore
from shortlist.errors import BudgetExceeded
from shortlist.tiers import ItemCards, RetrievedSlice, RetrieveQuery, RetrieverStatus

__all__ = ["Generation", "LoadedGenerations", "LocalRetriever"]

Answer = TypeVar("Answer")


class LocalRetriever:
    """A `shortlist.tiers.Retriever` over the versions that this process holds.

    Queries run on a small pool of threads: numpy and ScaNN release the interpreter, and the event
    loop goes on.
    """

    def __init__(self, versions: LoadedGenerations, *, threads: int = 2) -> None:
        self.versions = versions
        self._pool = ThreadPoolExecutor(
            threads, thread_name_prefix=f"shard-{versions.active.shard}"
        )

    @classmethod
    def open(
        cls,
        store: ArtifactStore,
        shard: int,
        version: str | None = None,
        *,
        threads: int = 2,
    ) -> LocalRetriever:
        """Load one shard of `version`, or of the current one.

        Raises `ArtifactNotFound`, `ArtifactCorrupt`, `ArtifactRefused` or `ScannUnavailable`.
        """

        def load(version: str | None) -> Generation:
            return Generation.open(store.open(TIER, version), shard)

        return cls(LoadedGenerations(load(version), load), threads=threads)

    @property
    def name(self) -> str:
        return f"local/{self.versions.active.shard}"

    async def retrieve(self, query: RetrieveQuery) -> RetrievedSlice:
        """Raises `VersionNotServed`, or `BudgetExceeded` when no thread was free in time."""
        generation = self.versions.of(query.index_version)
        expires = _expiry(query.deadline_ms)

        def answer() -> RetrievedSlice:
            if time.perf_counter() >= expires:
                raise BudgetExceeded(f"{query.deadline_ms} ms passed before the search began")
            return generation.retrieve(query)

        return await self._in_pool(answer)

    async def describe(
        self, keys: Keys, fields: tuple[str, ...], index_version: str | None
    ) -> ItemCards:
        """Raises `VersionNotServed`, or `InvalidField` for a feature that the items lack."""
        generation = self.versions.of(index_version)
        return await self._in_pool(lambda: generation.describe(keys, fields))

    async def status(self) -> RetrieverStatus:
        active = self.versions.active
        return RetrieverStatus(
            shard=active.shard,
            shards=active.shards,
            index_version=active.version,
            items=len(active.keys),
            items_total=active.items_total,
            sources=tuple(active.sources),
            watermark_ms=active.watermark_ms,
        )

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _in_pool(self, work: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _expiry(deadline_ms: float | None) -> float:
    return float("inf") if deadline_ms is None else time.perf_counter() + deadline_ms / 1000
