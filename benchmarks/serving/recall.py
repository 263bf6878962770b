"""Recall@k of the shards that serve, asked over the wire while they are under load."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.serving.world import Probes
from orchestrator.fanout import merge_sources
from shortlist.config import Config
from shortlist.ids import shard_quota
from shortlist.remote import RemoteRetriever
from shortlist.stores.opening import open_store
from shortlist.tiers import RetrieveQuery, UserContext

__all__ = ["RecallProbe", "probe_queries"]

_EVERY_S = 0.2
_SOURCE = "two_tower"


class RecallProbe:
    """Asks what an orchestrator asks, for users whose exact neighbours are known."""

    def __init__(self, workdir: Path, shards: Sequence[str]) -> None:
        self._workdir = workdir
        self._shards = [RemoteRetriever(one) for one in shards]
        self._probes = Probes.load(workdir / "probes.npz")
        self.found: list[float] = []

    @property
    def recall(self) -> float | None:
        """Mean over all questions so far; None before the first."""
        return float(np.mean(self.found)) if self.found else None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ask now and then while the body runs."""
        share = shard_quota(self._probes.exact.shape[1], len(self._shards))
        queries = await probe_queries(self._workdir, share)
        task = asyncio.create_task(self._keep_asking(queries))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def close(self) -> None:
        await asyncio.gather(*(shard.close() for shard in self._shards))

    async def _keep_asking(self, queries: list[RetrieveQuery]) -> None:
        k = self._probes.exact.shape[1]
        for number in range(10**9):
            at = number % len(queries)
            slices = await asyncio.gather(*(one.retrieve(queries[at]) for one in self._shards))
            (merged,) = merge_sources(slices, {_SOURCE: k})
            hits = np.isin(merged.keys, self._probes.exact[at], assume_unique=True)
            self.found.append(float(hits.sum()) / k)
            await asyncio.sleep(_EVERY_S)


async def probe_queries(workdir: Path, k: int) -> list[RetrieveQuery]:
    """What a shard is asked for the best `k` items of users whose exact neighbours are known."""
    probes = Probes.load(workdir / "probes.npz")
    config = Config.load(workdir / "shortlist.yaml")
    store = open_store(config.store, workdir)
    queries = []
    try:
        for user_id in probes.users:
            profile = await store.get(user_id)
            assert profile is not None
            queries.append(
                RetrieveQuery(
                    request_id="recall",
                    user=UserContext(
                        user_key=profile.user_key,
                        history=profile.history,
                        attributes=profile.attributes,
                        time_ms=probes.now_ms,
                    ),
                    quotas={_SOURCE: k},
                    exclude=np.sort(profile.seen),
                )
            )
    finally:
        await store.close()
    return queries
