from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval_svc.brute_force import Hits
from retrieval_svc.encoder import UserEncoder
from retrieval_svc.shard import Generation, LiveGeneration, LoadedGenerations, LocalRetriever
from retrieval_svc.slice_files import RetrievalMeta
from retrieval_svc.snapshot import Part, Snapshot
from retrieval_svc.sources import SOURCES
from retrieval_svc.sources.base import SourceQuery
from shortlist.artifacts import ArtifactStore
from shortlist.errors import (
    ArtifactCorrupt,
    ArtifactNotFound,
    ArtifactRefused,
    BudgetExceeded,
    InvalidField,
    VersionNotServed,
)
from shortlist.ids import keys_of, shard_of
from shortlist.tiers import StageFailure
from tests.contracts.retriever import RetrieverContract, assert_same_answer
from tests.retrieval_svc.factory import (
    ROLES,
    WATERMARK_MS,
    Catalogue,
    meta_of,
    publish,
    query,
    user_who_liked,
    write_files,
)

CATALOGUE = Catalogue.random(200)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def open_shard(store: ArtifactStore, shard: int = 0, version: str | None = None) -> LocalRetriever:
    return LocalRetriever.open(store, shard, version)


class TestLocalRetriever(RetrieverContract):
    @pytest.fixture(scope="class")
    @classmethod
    def published(cls, tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
        store = ArtifactStore(tmp_path_factory.mktemp("shards"))
        publish(store, CATALOGUE, shards=2)
        return store

    @pytest.fixture
    async def retriever(self, published: ArtifactStore) -> Any:
        retriever = open_shard(published, shard=1)
        yield retriever
        await retriever.close()


class TestLocalRetrieverWithScann(RetrieverContract):
    @pytest.fixture(scope="class")
    @classmethod
    def indexed(cls, tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
        store = ArtifactStore(tmp_path_factory.mktemp("scann"))
        publish(store, Catalogue.random(1200), exact_below=0)
        return store

    @pytest.fixture
    async def retriever(self, indexed: ArtifactStore) -> Any:
        retriever = open_shard(indexed)
        yield retriever
        await retriever.close()


async def test_the_shards_together_answer_like_one(store: ArtifactStore) -> None:
    publish(store, CATALOGUE, version="one", shards=1)
    publish(store, CATALOGUE, version="three", shards=3)
    asked = query(user_who_liked(int(CATALOGUE.keys[3])))
    whole = (await open_shard(store, 0, "one").retrieve(asked)).sources
    parts = [
        (await open_shard(store, shard, "three").retrieve(asked)).sources for shard in range(3)
    ]
    for at, source in enumerate(whole):
        keys = np.concatenate([part[at].keys for part in parts])
        scores = np.concatenate([part[at].scores for part in parts])
        best = np.lexsort((keys, -scores))[:10]
        assert keys[best].tolist() == source.keys.tolist()


async def test_two_tower_answers_with_the_nearest_items_and_popular_with_the_most_popular(
    store: ArtifactStore,
) -> None:
    publish(store, CATALOGUE)
    liked = int(CATALOGUE.keys[42])
    two_tower, popular = (await open_shard(store).retrieve(query(user_who_liked(liked)))).sources
    assert two_tower.keys[0] == liked
    assert two_tower.scores[0] == pytest.approx(1)
    assert popular.keys.tolist() == CATALOGUE.keys[np.argsort(-CATALOGUE.popularity)[:10]].tolist()


async def test_exclusions_of_other_shards_and_unknown_ones_are_ignored(
    store: ArtifactStore,
) -> None:
    publish(store, CATALOGUE, shards=2)
    exclude = np.concatenate([CATALOGUE.keys[:20], keys_of(["stranger"])])
    answer = await open_shard(store).retrieve(query(exclude=exclude))
    own = int(np.count_nonzero(shard_of(CATALOGUE.keys[:20], 2) == 0))
    assert answer.dropped == {"excluded": own}
    assert [len(one.keys) for one in answer.sources] == [10, 10]


async def test_everything_excluded_leaves_an_empty_answer(store: ArtifactStore) -> None:
    publish(store, CATALOGUE)
    answer = await open_shard(store).retrieve(query(exclude=CATALOGUE.keys))
    assert [len(one.keys) for one in answer.sources] == [0, 0]
    assert answer.items_searched == len(CATALOGUE.keys)


class BrokenSource:
    name = "two_tower"

    def propose(self, query: SourceQuery, k: int) -> Hits:
        raise RuntimeError("secret of the implementation")


def with_source(store: ArtifactStore, source: Any, **options: Any) -> LocalRetriever:
    generation = Generation.open(store.open("retrieval"), 0)
    sources = {**generation.sources, source.name: source}
    changed = dataclasses.replace(
        generation,
        published=Snapshot(base=Part.whole(dataclasses.replace(generation.base, sources=sources))),
    )
    live = LiveGeneration(changed)
    return LocalRetriever(LoadedGenerations(live, lambda version: live), threads=1, **options)


async def test_a_source_that_raises_is_reported_and_the_others_answer(
    store: ArtifactStore,
) -> None:
    publish(store, CATALOGUE)
    answer = await with_source(store, BrokenSource()).retrieve(query())
    assert [one.source for one in answer.sources] == ["popular"]
    assert answer.failures == (
        StageFailure(stage="source/two_tower", reason="SOURCE_FAILED", detail="RuntimeError"),
    )
    assert answer.items_searched == len(CATALOGUE.keys)


async def test_when_every_source_raises_nothing_was_searched(store: ArtifactStore) -> None:
    publish(store, CATALOGUE)
    retriever = with_source(store, BrokenSource())
    answer = await retriever.retrieve(query(quotas={"two_tower": 5}))
    assert (answer.sources, answer.items_searched) == ((), 0)


class WaitingSource:
    name = "two_tower"

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def propose(self, query: SourceQuery, k: int) -> Hits:
        assert self.go_on.wait(10)
        return np.empty(0, np.int64), np.empty(0, np.float32)


async def test_a_query_that_waited_past_its_deadline_is_not_searched(
    store: ArtifactStore,
) -> None:
    publish(store, CATALOGUE)
    source = WaitingSource()
    retriever = with_source(store, source)
    running = asyncio.create_task(retriever.retrieve(query()))
    late = asyncio.create_task(retriever.retrieve(query(deadline_ms=50.0)))
    await asyncio.sleep(0.06)  # the event loop is free while a source works
    source.go_on.set()
    with pytest.raises(BudgetExceeded):
        await late
    assert (await running).failures == ()


async def test_a_source_that_takes_all_the_time_costs_the_sources_after_it_not_the_answer(
    store: ArtifactStore,
) -> None:
    class Slow:
        name = "two_tower"

        def propose(self, query: SourceQuery, k: int) -> Hits:
            time.sleep(0.1)
            return np.zeros(1, np.int64), np.ones(1, np.float32)

    publish(store, CATALOGUE)
    asked = query(quotas={"two_tower": 5, "popular": 5}, deadline_ms=100.0)
    answer = await with_source(store, Slow()).retrieve(asked)
    assert [one.source for one in answer.sources] == ["two_tower"]
    assert answer.failures == (
        StageFailure(stage="source/popular", reason="SOURCE_FAILED", detail="no time was left"),
    )


class PlacedSource:
    """Remembers which threads it was asked in."""

    name = "two_tower"

    def __init__(self) -> None:
        self.threads: list[str] = []

    def propose(self, query: SourceQuery, k: int) -> Hits:
        self.threads.append(threading.current_thread().name)
        return np.empty(0, np.int64), np.empty(0, np.float32)


@pytest.mark.parametrize(
    ("on_loop", "filter", "threads"),
    [(False, "", "shard-0_0"), (True, "", "MainThread"), (True, "price > 5", "shard-0_0")],
)
async def test_a_process_of_its_own_searches_on_its_loop_unless_it_has_to_filter(
    on_loop: bool, filter: str, threads: str, store: ArtifactStore
) -> None:
    publish(store, CATALOGUE)
    source = PlacedSource()
    retriever = with_source(store, source, on_loop=on_loop)
    await retriever.retrieve(query(filter=filter))
    assert source.threads == [threads]
    await retriever.close()


async def test_cards_hold_what_the_item_table_says(store: ArtifactStore) -> None:
    publish(store, CATALOGUE)
    rows = [7, 2]
    fields = ("price", "tags", "maker", "blurb")
    cards = await open_shard(store).describe(CATALOGUE.keys[rows], fields, None)
    assert cards.ids == tuple(CATALOGUE.ids[row] for row in rows)
    assert cards.titles[0] == f"Title of {CATALOGUE.ids[7]}"
    assert set(cards.groups) == {"genre", "tags", "maker"}
    assert cards.groups["genre"] == (("genre-0",), ("genre-2",))
    assert cards.groups["maker"] == ((), ("ann",))
    assert cards.attributes == (
        {"price": 7.0, "tags": ("new", "tag-1"), "blurb": "All about 7"},
        {"price": 2.0, "tags": ("new", "tag-2"), "maker": "ann", "blurb": "All about 2"},
    )


async def test_a_field_that_no_item_has_is_refused_by_name(store: ArtifactStore) -> None:
    publish(store, CATALOGUE)
    with pytest.raises(InvalidField, match="'colour'; there are: genre, tags"):
        await open_shard(store).describe(CATALOGUE.keys[:1], ("colour",), None)


async def test_a_version_is_prepared_activated_and_retired(store: ArtifactStore) -> None:
    publish(store, CATALOGUE, version="v1")
    retriever = open_shard(store)
    publish(store, Catalogue.random(50, seed=1), version="v2")
    await retriever.versions.prepare("v2")
    assert (await retriever.retrieve(query())).index_version == "v1"
    assert (await retriever.retrieve(query(index_version="v2"))).items_searched == 50
    assert await retriever.versions.activate("v2") == "v1"
    assert (await retriever.retrieve(query())).index_version == "v2"
    loaded = [(one.version, one.active) for one in retriever.versions.status().versions]
    assert loaded == [("v1", False), ("v2", True)]
    await retriever.versions.retire("v1")
    with pytest.raises(VersionNotServed, match="v1"):
        await retriever.retrieve(query(index_version="v1"))


async def test_the_active_version_cannot_be_retired_nor_an_unknown_one_activated(
    store: ArtifactStore,
) -> None:
    publish(store, CATALOGUE, version="v1")
    versions = open_shard(store).versions
    with pytest.raises(VersionNotServed, match="v1 is active"):
        await versions.retire("v1")
    with pytest.raises(VersionNotServed, match="v9"):
        await versions.activate("v9")
    with pytest.raises(ArtifactNotFound):
        await versions.prepare("v9")


def test_a_shard_that_the_version_does_not_have_is_refused(store: ArtifactStore) -> None:
    publish(store, CATALOGUE, shards=2)
    with pytest.raises(ArtifactRefused, match="2 shards, no shard 2"):
        open_shard(store, shard=2)


def replace(path: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        np.save(folder / path, change(np.load(folder / path)))

    return damage


DAMAGES = {
    "descending keys": (replace("shard-00000/keys.npy", lambda a: a[::-1]), "ascending"),
    "signed keys": (replace("shard-00000/keys.npy", lambda a: a.astype(np.int64)), "int64"),
    "too few vectors": (replace("shard-00000/vectors.npy", lambda a: a[1:]), r"vectors\.npy"),
    "other dimension": (replace("shard-00000/vectors.npy", lambda a: a[:, 1:]), r"vectors\.npy"),
    "long vectors": (replace("shard-00000/vectors.npy", lambda a: a * 2), "length 2"),
    "double vectors": (replace("shard-00000/vectors.npy", lambda a: a.astype(float)), "float64"),
    "other items": (replace("shard-00000/keys.npy", lambda a: a + 1), r"items\.parquet"),
    "no popularity": (
        lambda folder: (folder / "shard-00000/popular/count.npy").unlink(),
        r"popular/count\.npy: missing",
    ),
    "no items": (lambda folder: (folder / "shard-00000/items.parquet").unlink(), r"items\.parquet"),
    "text items": (
        lambda folder: (folder / "shard-00000/items.parquet").write_text("id\n"),
        r"items\.parquet",
    ),
    "no tower": (lambda folder: (folder / "tower/keys.npy").unlink(), "tower"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_files_that_do_not_fit_together_are_refused_by_name(
    store: ArtifactStore, case: str
) -> None:
    damage, message = DAMAGES[case]
    publish(store, CATALOGUE, damage=damage)
    with pytest.raises((ArtifactCorrupt, ArtifactRefused), match=message):
        open_shard(store)


def test_a_source_that_cannot_answer_refuses_the_version(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, CATALOGUE)
    nan = np.full(16, np.nan, np.float32)
    monkeypatch.setattr(UserEncoder, "encode", lambda tower, user: nan)
    with pytest.raises(ArtifactRefused, match="two_tower cannot answer: vector: holds a NaN"):
        LocalRetriever.open(store, 0)


def test_keys_of_another_shard_are_refused(store: ArtifactStore) -> None:
    def swap(folder: Path) -> None:
        (folder / "shard-00000").rename(folder / "other")
        (folder / "shard-00001").rename(folder / "shard-00000")
        (folder / "other").rename(folder / "shard-00001")

    sizes = np.bincount(shard_of(CATALOGUE.keys, 2)).tolist()
    publish(store, CATALOGUE, shards=2, damage=swap, items_per_shard=sizes[::-1])
    with pytest.raises(ArtifactCorrupt, match="other shards than 0 of 2"):
        open_shard(store)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"dim": 0}, r"meta\.dim"),
        ({"items_per_shard": [1, 2]}, "items_per_shard"),
        ({"items_total": 0, "items_per_shard": [0]}, "items_total"),
        ({"sources": ["two_tower", "oracle"]}, "oracle"),
        ({"item_features": None}, "item_features"),
        ({"fusion": {"mf": [1.0]}}, r"meta\.fusion\.mf"),
        ({"fusion": {"mf": [-1.0, 60.0]}}, r"meta\.fusion\.mf\.0"),
        ({"fusion": {"mf": [1.0, -1.0]}}, r"meta\.fusion\.mf\.1"),
        ({"fusion": {"mf": [1.0, "60"]}}, r"meta\.fusion\.mf\.1"),
        ({"absent": {"geographic": 3}}, r"meta\.absent\.geographic"),
    ],
)
def test_a_manifest_that_says_nonsense_is_refused(
    store: ArtifactStore, meta: dict[str, Any], message: str
) -> None:
    publish(store, CATALOGUE, **meta)
    with pytest.raises(ArtifactRefused, match=message):
        open_shard(store)


def test_fusion_that_is_not_finite_is_refused_before_publication(tmp_path: Path) -> None:
    meta = meta_of(CATALOGUE, 1) | {"fusion": {"mf": [float("nan"), 60.0]}}
    with pytest.raises(ArtifactRefused, match=r"meta\.fusion\.mf\.0"):
        RetrievalMeta.read(meta, tmp_path)


async def test_candidates_carry_the_weights_that_the_version_has_learned(
    store: ArtifactStore,
) -> None:
    publish(store, CATALOGUE, fusion={"two_tower": [2.5, 10]})
    answer = await open_shard(store).retrieve(query())
    fusion = {one.source: (one.weight, one.offset) for one in answer.sources}
    assert fusion == {"two_tower": (2.5, 10.0), "popular": (1.0, 60.0)}


async def test_a_folder_that_is_not_published_answers_like_the_published_one(
    store: ArtifactStore, tmp_path: Path
) -> None:
    publish(store, CATALOGUE, shards=2)
    write_files(tmp_path, CATALOGUE, shards=2, exact_below=20_000, k=100)
    meta = RetrievalMeta.read(meta_of(CATALOGUE, 2), tmp_path)
    staged = Generation.open_folder(tmp_path, meta, 1, version="staged")
    asked = query(user_who_liked(int(CATALOGUE.keys[3])), quotas=dict.fromkeys(SOURCES, 10))
    answer = staged.retrieve(asked)
    published = await open_shard(store, 1).retrieve(asked)
    assert answer.index_version == "staged"
    assert_same_answer(answer, dataclasses.replace(published, index_version="staged"))


async def test_a_version_may_have_fewer_sources(store: ArtifactStore) -> None:
    publish(store, CATALOGUE, sources=["popular", "fresh"], absent={"mf": "no interactions"})
    retriever = open_shard(store)
    assert (await retriever.status()).sources == ("popular", "fresh")
    answer = await retriever.retrieve(query(quotas={"fresh": 5, "mf": 5}))
    assert [one.source for one in answer.sources] == ["fresh"]
    assert [one.stage for one in answer.failures] == ["source/mf"]


async def test_the_status_tells_the_slice_from_the_whole(store: ArtifactStore) -> None:
    artifact = publish(store, CATALOGUE, shards=2)
    status = await open_shard(store, 1).status()
    assert status.items == int(np.count_nonzero(shard_of(CATALOGUE.keys, 2) == 1))
    assert status.items_total == 200
    assert status.index_version == artifact.version
    assert status.watermark_ms == WATERMARK_MS
    assert status.sources == tuple(SOURCES)
    assert set(ROLES) > {"genre", "tags"}
