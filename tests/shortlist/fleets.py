"""Two shards with two replicas each, a ranker and an orchestrator, over loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.assemble import assemble
from orchestrator.servicer import add_services as add_orchestrator
from ranking_svc.ranker import LocalRanker
from ranking_svc.servicer import add_services as add_ranker
from retrieval_svc.servicer import add_services as add_shard
from retrieval_svc.shard import LocalRetriever
from shortlist.artifacts import Artifact, ArtifactStore
from shortlist.client import AsyncClient
from shortlist.config import Config, DeploymentConfig
from shortlist.fleet import reached
from shortlist.page import Page, PageRequest
from shortlist.remote import RemoteRanker, RemoteRetriever
from shortlist.rollout import Redeploy
from shortlist.serving import Server, ServerOptions
from shortlist.stores.memory import MemoryProfileStore
from tests.ranking_svc.factory import MODELS, WORTH, random_builder
from tests.ranking_svc.factory import write_files as write_ranker
from tests.ranking_svc.tables import NOW_MS
from tests.retrieval_svc.factory import Catalogue, meta_of, write_files

SHARDS, REPLICAS = 2, 2
QUICK = DeploymentConfig(drain_s=0.0)
# Generous, so that a busy machine degrades no page.
PATIENCE = {f"{what}_budget_ms": 20_000 for what in ("retrieval", "ranking", "describe", "request")}


def publish_retrieval(
    store: ArtifactStore,
    version: str,
    *,
    seed: int = 0,
    shards: int = SHARDS,
    damage: Callable[[Path], Any] = lambda folder: None,
    parents: dict[str, str] | None = None,
    **meta: Any,
) -> Artifact:
    """A version that is not promoted. Titles of its items begin with its name."""
    catalogue = Catalogue.random(60, seed=seed)
    with store.stage("retrieval") as staged:
        write_files(staged.path, catalogue, shards=shards, exact_below=20_000, k=100)
        for path in staged.path.glob("shard-*/items.parquet"):
            table = pq.read_table(path)
            titles = pa.array([f"{version}: {id}" for id in table["id"].to_pylist()])
            at = table.schema.get_field_index("title")
            pq.write_table(table.set_column(at, "title", titles), path)
        damage(staged.path)
        return staged.publish(
            version=version, meta=meta_of(catalogue, shards) | meta, parents=parents
        )


def publish_ranking(store: ArtifactStore, version: str, *, seed: int = 0, **meta: Any) -> Artifact:
    """A version that is not promoted."""
    says = {
        "watermark_ms": NOW_MS,
        "models": MODELS,
        "default_model": "ensemble",
        "heads": WORTH,
        "located": ["at"],
    }
    with store.stage("ranking") as staged:
        write_ranker(staged.path, random_builder(), seed)
        return staged.publish(version=version, meta=says | meta)


@dataclass(kw_only=True)
class System:
    """What runs, and how to ask it."""

    store: ArtifactStore
    shards: list[LocalRetriever] = field(default_factory=list)  # replicas of shard 0 first
    ranker: LocalRanker
    targets: list[str] = field(default_factory=list)
    servers: list[Server] = field(default_factory=list)
    client: AsyncClient
    told: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def redeploy(
        self, tier: str, config: DeploymentConfig = QUICK, *, strict: bool = True
    ) -> AsyncIterator[Redeploy]:
        async with reached(self.targets, strict=strict) as fleet:
            yield Redeploy(self.store, fleet, tier, config, tell=self.told.append)

    async def page(self, **fields: Any) -> Page:
        return await self.client.recommend(PageRequest(**{"user_id": "ann"} | fields))

    def active(self, tier: str = "retrieval") -> set[str]:
        parts = self.shards if tier == "retrieval" else [self.ranker]
        return {one.versions.active.version for one in parts}

    def loaded(self, tier: str = "retrieval") -> list[list[str]]:
        parts = self.shards if tier == "retrieval" else [self.ranker]
        return [sorted(v.version for v in one.versions.loaded) for one in parts]

    async def stop(self, at: int) -> None:
        """The process at `targets[at]` goes away."""
        await self.servers[at].stop()

    async def restart(self, at: int) -> None:
        """The replica at `targets[at]` goes away and starts again, as a new process would."""
        await self.stop(at)
        if at < len(self.shards):
            await self.shards[at].close()
            shard = await asyncio.to_thread(LocalRetriever.open, self.store, at // REPLICAS)
            await shard.start()
            self.shards[at] = shard
            add: Callable[[Server], None] = partial(
                add_shard, retriever=shard, versions=shard.versions
            )
        else:
            await self.ranker.close()
            self.ranker = await asyncio.to_thread(LocalRanker.open, self.store)
            await self.ranker.start()
            add = partial(add_ranker, ranker=self.ranker, versions=self.ranker.versions)
        port = int(self.targets[at].rpartition(":")[2])
        self.servers[at] = Server(ServerOptions(drain_s=0, port=port))
        add(self.servers[at])
        await self.servers[at].start()


def titled(page: Page) -> set[str]:
    """The versions that the items' titles are of."""
    return {item.title.partition(":")[0] for item in page.items}


def whole(page: Page) -> bool:
    """Every shard answered, the ranker ranked, and nothing on the page is of another version."""
    coverage = page.coverage
    return (
        titled(page) == {page.versions.retrieval}
        and bool(page.versions.ranking)
        and coverage.shards_answered == coverage.shards_total == SHARDS
        and not page.degradations
    )


def publish_all(root: Path) -> None:
    """`v1` and `r1`, which serve, and `v2` and `r2`."""
    store = ArtifactStore(root)
    publish_retrieval(store, "v1")
    store.promote("retrieval", "v1", expected=None)
    publish_retrieval(store, "v2", seed=1)
    publish_ranking(store, "r1")
    store.promote("ranking", "r1", expected=None)
    publish_ranking(store, "r2", seed=1)


@asynccontextmanager
async def running(root: Path) -> AsyncIterator[System]:
    """Serves what `publish_all` has put there."""
    store = ArtifactStore(root)
    shards = [
        [LocalRetriever.open(store, shard) for _ in range(REPLICAS)] for shard in range(SHARDS)
    ]
    ranker = LocalRanker.open(store)
    async with AsyncExitStack() as stack:
        targets, servers = [], []

        async def serve(add: Callable[..., None], *parts: Any) -> str:
            server = Server(ServerOptions(drain_s=0))
            add(server, *parts)
            target = f"127.0.0.1:{await server.start()}"
            targets.append(target)
            servers.append(server)
            return target

        groups = [
            [await serve(add_shard, one, one.versions) for one in replicas] for replicas in shards
        ]
        scorer = await serve(add_ranker, ranker, ranker.versions)
        recommender = assemble(
            Config.model_validate({"serving": PATIENCE}),
            [[RemoteRetriever(one) for one in group] for group in groups],
            [RemoteRanker(scorer)],
            MemoryProfileStore([]),
        )
        await stack.enter_async_context(recommender)
        client = AsyncClient(await serve(add_orchestrator, recommender), retries=False)
        stack.push_async_callback(client.close)
        system = System(
            store=store,
            shards=[one for replicas in shards for one in replicas],
            ranker=ranker,
            targets=targets,
            servers=servers,
            client=client,
        )
        yield system
        await asyncio.gather(*(server.stop() for server in system.servers))
        await asyncio.gather(system.ranker.close(), *(one.close() for one in system.shards))
