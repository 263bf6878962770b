"""`python -m benchmarks.sizing`: what a shard of N items takes in files, memory, start and CPU.

The numbers behind docs/sizing.md. A made-up catalogue is written by the code that training writes
with, in shards, and one of them is served by `python -m retrieval_svc` in a process of its own. It
has the sources that cost something: two_tower, mf and cooccurrence; content costs what mf does, and
the others a few numbers an item.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np

from benchmarks.serving.systems import Process
from benchmarks.serving.world import World, WorldShape
from retrieval_svc.item_encoder import ItemEncoder
from retrieval_svc.source_data import PostingLists, SharedData, SourceData
from shortlist.artifacts import Artifact, ArtifactStore
from shortlist.config import RetrievalConfig
from shortlist.launch import child_environment, module_command
from shortlist.remote import RemoteRetriever
from shortlist.tiers import RetrieveQuery, UserContext
from training.shards import TOWER_SOURCE, Writer
from training.sources.base import TrainedSource

QUOTA = 1000  # candidates asked of each source


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What the process of one shard took."""

    start_s: float  # until it listens
    start_cpu_s: float
    memory_mb: float  # resident after the queries
    cpu_ms_per_query: float
    cpu_ms_by_source: dict[str, float]  # of a query for that source alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What was measured at one size."""

    items: int  # of the catalogue
    shards: int
    shared_bytes_per_item: dict[str, float]  # by source: files that every shard reads, of all items
    own_bytes_per_item: dict[str, float]  # by source: files of one shard, of its items
    files_mb: float  # that the shard reads
    served: Served


def measure(items: int, shards: int, queries: int, tell: Callable[[str], None]) -> Row:
    shape = WorldShape(items=items, users=queries, shards=(shards,))
    tell(f"making {items:,} items")
    world = World(shape, now_ms=time.time_ns() // 1_000_000)
    with TemporaryDirectory() as folder:
        artifact = _write(Path(folder), world, shards, tell)
        shared, own = _bytes_per_item(artifact, items)
        tell("serving shard 0")
        served = asyncio.run(_serve(Path(folder), world))
        return Row(
            items=items,
            shards=shards,
            shared_bytes_per_item=shared,
            own_bytes_per_item=own,
            files_mb=(sum(shared.values()) + sum(own.values()) / shards) * items / 2**20,
            served=served,
        )


def _write(folder: Path, world: World, shards: int, tell: Callable[[str], None]) -> Artifact:
    store = ArtifactStore(folder)
    vectors, keys = world.vectors, world.keys
    with store.stage("retrieval") as staged:
        writer = Writer(staged.path, keys, RetrievalConfig(), shards)
        writer.make_folders()
        (staged.path / "tower").mkdir()
        world.tower.save(staged.path / "tower")
        _item_encoder(world).save(staged.path / "tower")
        writer.write_shared(TOWER_SOURCE, SharedData())
        people = [profile for _, profile in world.profiles()]
        likely = np.stack([world.vector_of(profile) for profile in people[:256]])
        for shard in range(shards):
            tell(f"indexing shard {shard}")
            writer.write_items(keys, vectors, world.items, shard)
            writer.write_index(TOWER_SOURCE, vectors, shard, queries=likely, seed=0)
        for source in (_mf(world), _cooccurrence(world)):
            tell(f"writing {source.name}")
            writer.write_trained(source, seed=0)
        artifact = staged.publish(
            meta={
                "dim": world.shape.dim,
                "shards": shards,
                "items_total": len(keys),
                "items_per_shard": [*writer.items_per_shard],
                "watermark_ms": world.now_ms,
                "item_features": {},
                "sources": [TOWER_SOURCE, "mf", "cooccurrence"],
            }
        )
    store.promote("retrieval", artifact.version, expected=None)
    return artifact


def _item_encoder(world: World) -> ItemEncoder:
    encoder, dim = world.encoders.item, world.shape.dim
    return ItemEncoder(
        features=encoder,
        keys=world.keys,
        own=world.vectors,
        tokens=np.zeros((encoder.vocabulary_size, dim), np.float32),
        numeric=np.zeros((len(encoder.numeric_features), dim), np.float32),
        any_item=np.zeros(dim, np.float32),
    )


def _mf(world: World) -> TrainedSource:
    rng = np.random.default_rng(3)
    lengths = rng.lognormal(sigma=0.5, size=(len(world.keys), 1))
    factors = (world.vectors * lengths).astype(np.float32)
    return TrainedSource(
        name="mf",
        data=SourceData(columns={"vectors": factors}),
        shared=SharedData(
            arrays={
                "keys": world.keys,
                "factors": factors,
                "gram": factors.T @ factors + np.eye(factors.shape[1], dtype=np.float32),
            },
            settings={"confidence": 10.0, "history": 200},
        ),
        index_column="vectors",
    )


def _cooccurrence(world: World) -> TrainedSource:
    """Every item has the most neighbours that the configuration keeps: in the same cluster."""
    count, each = len(world.keys), RetrievalConfig().cooccurrence.neighbours
    rng = np.random.default_rng(5)
    by_cluster = np.argsort(world.cluster, kind="stable")
    places = np.empty(count, np.int64)
    places[by_cluster] = np.arange(count)
    steps = np.sort(rng.permutation(2 * each)[:each]) - each  # the same for all: no time to draw
    rows = np.sort(by_cluster[(places[:, None] + steps) % count].astype(np.int32), axis=1)
    lists = PostingLists(
        terms=world.keys,
        starts=np.arange(0, each * count + 1, each, dtype=np.int64),
        rows=rows.ravel(),
        weights=rng.random(each * count, dtype=np.float32),
    )
    return TrainedSource(
        name="cooccurrence",
        data=SourceData(lists={"similar": lists}),
        shared=SharedData(settings={"history": 200, "half_life_events": 20.0}),
    )


def _bytes_per_item(artifact: Artifact, items: int) -> tuple[dict[str, float], dict[str, float]]:
    """By source (`items`: keys, vectors and descriptions): what all shards read, and one's own."""
    shared: dict[str, float] = {}
    own: dict[str, float] = {}
    for name, entry in artifact.manifest.files.items():
        first, *rest = name.split("/")
        if first.startswith("shard-"):
            part = rest[0] if len(rest) > 1 else "items"
            own[part] = own.get(part, 0.0) + entry.size / items
        else:
            shared[first] = shared.get(first, 0.0) + entry.size / items
    return shared, own


async def _serve(root: Path, world: World) -> Served:
    started = time.monotonic()
    child = await asyncio.create_subprocess_exec(
        *module_command("retrieval_svc", "--artifacts", str(root), "--shard", "0"),
        stdout=asyncio.subprocess.PIPE,
        env=child_environment(),
    )
    try:
        assert child.stdout is not None
        line = await child.stdout.readline()
        start_s = time.monotonic() - started
        address = f"127.0.0.1:{json.loads(line)['port']}"
        process = Process(name="shard-0", pid=child.pid, address=address, metrics_port=None)
        start_cpu_s = process.cpu_s
        sources = {
            name: await _ask(process, world, {name: QUOTA})
            for name in (TOWER_SOURCE, "mf", "cooccurrence")
        }
        together = await _ask(process, world, dict.fromkeys(sources, QUOTA))
        return Served(
            start_s=start_s,
            start_cpu_s=start_cpu_s,
            memory_mb=process.memory_mb["rss"],
            cpu_ms_per_query=together,
            cpu_ms_by_source=sources,
        )
    finally:
        child.terminate()
        await child.wait()


async def _ask(process: Process, world: World, quotas: dict[str, int]) -> float:
    """Milliseconds of the shard's CPU a query; every user asks once, after a round to warm up."""
    client = RemoteRetriever(process.address)
    people = [profile for _, profile in world.profiles()]
    spent = 0.0
    for _round in range(2):
        before = process.cpu_s
        for profile in people:
            user = UserContext(
                user_key=profile.user_key,
                history=profile.history,
                attributes=profile.attributes,
                time_ms=world.now_ms,
            )
            slice_ = await client.retrieve(
                RetrieveQuery(request_id="", user=user, quotas=quotas, exclude=profile.seen)
            )
            assert not slice_.failures, slice_.failures
        spent = process.cpu_s - before
    await client.close()
    return 1000 * spent / len(people)


@click.command(context_settings={"show_default": True})
@click.option("--items", multiple=True, default=(100_000, 1_000_000), help="Of the catalogue.")
@click.option("--shards", default=2, help="That it is divided into; one is served.")
@click.option("--queries", default=200, help="Users that ask it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def main(items: tuple[int, ...], shards: int, queries: int, as_json: bool) -> None:
    """Files, memory, start and CPU of one retrieval shard, by the size of the catalogue."""

    def tell(text: str) -> None:
        click.echo(text, err=True)

    rows = [asdict(measure(size, shards, queries, tell)) for size in items]
    json.dump({"rows": rows}, sys.stdout, indent=None if as_json else 2)
    click.echo()


if __name__ == "__main__":
    main()
