"""One shard in this process: answers from the generations it holds, by version (I3)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from retrieval_svc.encoder import UserEncoder
from retrieval_svc.generation import Generation
from retrieval_svc.rows import Keys
from retrieval_svc.sources.two_tower import Encoder
from shortlist.artifacts import ArtifactStore
from shortlist.errors import BudgetExceeded, InvalidField, VersionNotServed
from shortlist.tiers import ItemCards, RetrievedSlice, RetrieveQuery, RetrieverStatus

__all__ = ["Generation", "LocalRetriever"]

TIER = "retrieval"

Answer = TypeVar("Answer")


class LocalRetriever:
    """A `shortlist.tiers.Retriever` that holds several versions of one shard.

    Queries run on a small pool of threads: numpy and ScaNN release the interpreter, and the event
    loop goes on.
    """

    def __init__(
        self, generation: Generation, *, load: Callable[[str], Generation], threads: int = 2
    ) -> None:
        """`load` opens another version of the same shard; it may raise what `open` raises."""
        self._load = load
        self._generations = {generation.version: generation}
        self._active = generation
        self._preparing = asyncio.Lock()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"shard-{generation.shard}")

    @classmethod
    def open(
        cls,
        store: ArtifactStore,
        shard: int,
        version: str | None = None,
        *,
        tier: str = TIER,
        threads: int = 2,
        open_encoder: Callable[[Path], Encoder] = UserEncoder.open,
    ) -> LocalRetriever:
        """Load one shard of `version`, or of the current one.

        Raises `ArtifactNotFound`, `ArtifactCorrupt`, `ArtifactRefused` or `ScannUnavailable`.
        """

        def load(version: str | None) -> Generation:
            return Generation.open(store.open(tier, version), shard, open_encoder)

        return cls(load(version), load=load, threads=threads)

    @property
    def name(self) -> str:
        return f"local/{self._active.shard}"

    async def retrieve(self, query: RetrieveQuery) -> RetrievedSlice:
        """Raises `VersionNotServed`, or `BudgetExceeded` when no thread was free in time."""
        generation = self._generation(query.index_version)
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
        generation = self._generation(index_version)
        return await self._in_pool(lambda: generation.describe(keys, fields))

    async def status(self) -> RetrieverStatus:
        return _status_of(self._active)

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def prepare(self, version: str) -> None:
        """Verify, load and warm up `version` beside the active one.

        Raises what `open` raises; what serves goes on serving.
        """
        async with self._preparing:
            if version not in self._generations:
                self._generations[version] = await asyncio.to_thread(self._load, version)

    def activate(self, version: str) -> str:
        """Serve a prepared version to queries that name none; returns the one served until now.

        Raises `VersionNotServed`.
        """
        previous, self._active = self._active, self._generation(version)
        return previous.version

    def retire(self, version: str) -> None:
        """Forget a version. Raises `VersionNotServed`, or `InvalidField` for the active one."""
        if self._generation(version) is self._active:
            raise InvalidField("version", f"{version} is active; activate another one first")
        del self._generations[version]

    def _generation(self, version: str | None) -> Generation:
        if version is None:
            return self._active
        if version not in self._generations:
            raise VersionNotServed(
                f"shard {self._active.shard} does not serve {version}, but "
                + ", ".join(self._generations)
            )
        return self._generations[version]

    async def _in_pool(self, work: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _expiry(deadline_ms: float | None) -> float:
    return float("inf") if deadline_ms is None else time.perf_counter() + deadline_ms / 1000


def _status_of(generation: Generation) -> RetrieverStatus:
    return RetrieverStatus(
        shard=generation.shard,
        shards=generation.shards,
        index_version=generation.version,
        items=len(generation.keys),
        items_total=generation.items_total,
        sources=tuple(generation.sources),
        watermark_ms=generation.watermark_ms,
    )
