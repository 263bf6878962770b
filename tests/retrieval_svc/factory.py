"""Small, valid retrieval artifacts with every source, of random numbers, without training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval_svc.encoder import TowerWeights, UserEncoder, user_columns
from retrieval_svc.index import build_index, build_source_index
from retrieval_svc.item_encoder import ItemEncoder
from retrieval_svc.source_data import PostingLists, SharedData, SourceData
from retrieval_svc.sources import SOURCES
from shortlist.artifacts import Artifact, ArtifactStore
from shortlist.features import FeatureEncoder
from shortlist.ids import keys_of, shard_of
from shortlist.places import place_names
from shortlist.tiers import AttributeValue, History, RetrieveQuery, UserContext

Floats = npt.NDArray[np.float32]
Keys = npt.NDArray[np.uint64]
Stored = tuple[SourceData, SharedData]

TEXTS = pa.list_(pa.string())
WATERMARK_MS = 1_700_000_000_000
DAY_MS = 86_400_000
FRESH_AFTER_MS = WATERMARK_MS - 10**9
PARIS = "48.86,2.35"
COUNTRIES = ("NZ", "FR", "IS")
ROLES = {
    "genre": "categorical",
    "tags": "multi_categorical",
    "maker": "creator",
    "blurb": "text",
    "price": "numeric",
    "name": "title",
}


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Items sorted by key, as the trainer has them."""

    ids: list[str]
    keys: Keys
    vectors: Floats
    popularity: Floats

    @staticmethod
    def random(items: int, dim: int = 16, *, seed: int = 0) -> Catalogue:
        rng = np.random.default_rng(seed)
        ids = [f"item-{number}" for number in range(items)]
        order = np.argsort(keys_of(ids))
        return Catalogue(
            ids=[ids[at] for at in order],
            keys=keys_of(ids)[order],
            vectors=clustered(items, dim, seed=seed),
            popularity=rng.gamma(1.0, size=items).astype(np.float32),
        )

    def table(self) -> pa.Table:
        rows = range(len(self.ids))
        return pa.table(
            {
                "key": pa.array(self.keys, pa.uint64()),
                "id": pa.array(self.ids, pa.string()),
                "title": pa.array([f"Title of {id}" for id in self.ids], pa.string()),
                "published_ms": pa.array([None for _ in rows], pa.int64()),
                "f_genre": pa.array([f"genre-{row % 7}" for row in rows], pa.string()),
                "f_tags": pa.array([["new", f"tag-{row % 3}"] for row in rows], TEXTS),
                "f_maker": pa.array([None if row % 2 else "ann" for row in rows], pa.string()),
                "f_blurb": pa.array([f"All about {row}" for row in rows], pa.string()),
                "f_price": pa.array([float(row) for row in rows], pa.float32()),
            }
        )


def publish(
    store: ArtifactStore,
    catalogue: Catalogue,
    *,
    shards: int = 1,
    version: str | None = None,
    exact_below: int = 20_000,
    k: int = 100,
    damage: Callable[[Path], Any] = lambda folder: None,
    **meta: Any,
) -> Artifact:
    """Publish and promote a version; `damage` may change the files before they are sealed."""
    with store.stage("retrieval") as staged:
        write_files(staged.path, catalogue, shards=shards, exact_below=exact_below, k=k)
        damage(staged.path)
        artifact = staged.publish(version=version, meta=meta_of(catalogue, shards) | meta)
    current = store.versions("retrieval")[-2:-1]
    store.promote("retrieval", artifact.version, expected=current[0] if current else None)
    return artifact


def write_files(
    folder: Path, catalogue: Catalogue, *, shards: int, exact_below: int, k: int
) -> None:
    (folder / "tower").mkdir()
    mean_tower(catalogue).save(folder / "tower")
    item_tower(catalogue).save(folder / "tower")
    sources = stored_sources(catalogue)
    for name, (_, shared) in sources.items():
        (folder / name).mkdir()
        shared.save(folder / name)
    owner = shard_of(catalogue.keys, shards)
    table = catalogue.table()
    options: dict[str, Any] = {"exact_below": exact_below, "recall_target": 0.9, "k": k, "seed": 0}
    for shard in range(shards):
        rows = np.flatnonzero(owner == shard)
        home = folder / f"shard-{shard:05d}"
        home.mkdir()
        np.save(home / "keys.npy", catalogue.keys[rows])
        np.save(home / "vectors.npy", catalogue.vectors[rows])
        pq.write_table(table.take(pa.array(rows)), home / "items.parquet")
        for name, (data, _) in sources.items():
            mine = data.take(rows, len(catalogue.keys))
            (home / name).mkdir()
            mine.save(home / name)
            if name == "two_tower":
                build_index(catalogue.vectors[rows], home / name / "index", **options)
            if "vectors" in mine.columns:
                build_source_index(mine.columns["vectors"], home / name / "index", **options)


def stored_sources(catalogue: Catalogue) -> dict[str, Stored]:
    """What each source has learned of all items: random, the same each time."""
    n, rng = len(catalogue.keys), np.random.default_rng(17)
    number = np.arange(n)
    factors = (catalogue.vectors * rng.lognormal(sigma=0.5, size=(n, 1))).astype(np.float32)
    factors[number % 10 == 9] = 0  # nobody liked them
    contents = clustered(n, 8, seed=23)
    contents[number % 7 == 6] = 0  # nothing is said of them
    first_ms = WATERMARK_MS - rng.integers(0, 4 * 10**9, size=n)
    first_ms[number % 11 == 10] = 0
    creators = keys_of(f"creator-{row % 5}" for row in number)
    places = np.sort(keys_of([*COUNTRIES, *place_names(PARIS)]))
    counted = {"as_of_ms": WATERMARK_MS, "begin_ms": WATERMARK_MS - 365 * DAY_MS}
    memory = {"history": 50, "half_life_events": 20.0}
    keys, described = catalogue.keys, content_shared(catalogue)

    def settings(**values: Any) -> SharedData:
        return SharedData(settings=values)

    return {
        "two_tower": (SourceData(), settings()),  # its vectors and its tower are everybody's
        "mf": (
            SourceData(columns={"vectors": factors}),
            SharedData(
                arrays={
                    "keys": keys,
                    "factors": factors,
                    "gram": factors.T @ factors + np.eye(factors.shape[1], dtype=np.float32),
                },
                settings={"confidence": 10.0, "history": 50},
            ),
        ),
        "cooccurrence": (
            SourceData(lists={"similar": random_lists(keys, n, 10, rng)}),
            settings(**memory),
        ),
        "content": (
            SourceData(columns={"vectors": contents}),
            SharedData(
                arrays={"keys": keys, "vectors": contents, **described.arrays},
                settings={**memory, **described.settings},
            ),
        ),
        "popular": (
            SourceData(
                columns={
                    "count": catalogue.popularity.astype(np.float64),
                    "always": np.zeros(n),
                    "since_ms": np.full(n, counted["begin_ms"]),
                    "prior": np.zeros(n),
                }
            ),
            SharedData(
                arrays={"groups": np.empty(0, np.uint64), "rates": np.empty(0)},
                settings={
                    **counted,
                    "half_life_ms": 10.0 * DAY_MS,
                    "trust": 0.0,
                    "mean_rate": 0.0,
                    "prior_features": [],
                },
            ),
        ),
        "trending": (
            SourceData(
                columns={
                    "recent": rng.gamma(2.0, size=n),
                    "past": 2 * rng.gamma(2.0, size=n),
                    "since_ms": np.full(n, counted["begin_ms"]),
                }
            ),
            settings(
                **counted,
                recent_half_life_ms=3.0 * DAY_MS,
                past_half_life_ms=40.0 * DAY_MS,
                usual_weight=1.0,
                rate_of_all=1 / (50 * DAY_MS),
            ),
        ),
        "fresh": (
            SourceData(columns={"first_ms": first_ms}),
            settings(after_ms=FRESH_AFTER_MS, pool=n),
        ),
        "geographic": (
            SourceData(
                columns={"likes": catalogue.popularity.astype(np.float64)},
                lists={
                    "liked": random_lists(places, n, 30, rng),
                    "located": random_lists(places, n, 5, rng),
                },
            ),
            SharedData(
                arrays={
                    "places": places,
                    "likes": np.full(len(places), 20.0),
                    "located": np.full(len(places), 0.5),
                },
                settings={
                    **counted,
                    "newest_ms": WATERMARK_MS,
                    "features": ["country", "home"],
                    "item_features": [],
                    "half_life_ms": 80.0 * DAY_MS,
                    "usual_weight": 1.0,
                    "likes": float(catalogue.popularity.sum()),
                    "floor": 1 / 50 / n,
                },
            ),
        ),
        "creator": (
            SourceData(
                lists={
                    "items": PostingLists.of(
                        creators, number.astype(np.int32), 1 + rng.random(n).astype(np.float32)
                    )
                }
            ),
            SharedData(
                arrays={"keys": keys, "starts": np.arange(n + 1), "creators": creators},
                settings={**memory, "features": ["maker"]},
            ),
        ),
    }


def random_lists(terms: Keys, rows: int, each: int, rng: np.random.Generator) -> PostingLists:
    """At most `each` different rows for each term, with weights from 0 to 1."""
    drawn = rng.integers(rows, size=(len(terms), each)) + np.arange(len(terms))[:, None] * rows
    term, row = np.divmod(np.unique(drawn), rows)
    weights = rng.random(len(row)).astype(np.float32)
    return PostingLists.of(terms[term], row.astype(np.int32), weights)


def mean_tower(catalogue: Catalogue, *, has_time: bool = True) -> UserEncoder:
    """The mean of the history's vectors; the first axis for whom nothing is known of."""
    dim = catalogue.vectors.shape[1]
    nothing = FeatureEncoder([], [])
    width = user_columns(nothing, nothing) + 2  # one token dimension a side
    return UserEncoder(
        keys=catalogue.keys,
        vectors=catalogue.vectors,
        user=nothing,
        context=nothing,
        weights=TowerWeights(
            position=np.zeros(50, np.float32),
            user_tokens=np.zeros((1, 1), np.float32),
            context_tokens=np.zeros((1, 1), np.float32),
            history_map=np.eye(dim, dtype=np.float32),
            feature_map=np.zeros((width, dim), np.float32),
            bias=1e-6 * np.eye(1, dim, dtype=np.float32)[0],
            hidden_map=np.zeros((2 * dim + width, 1), np.float32),
            hidden_bias=np.zeros(1, np.float32),
            output_map=np.zeros((1, dim), np.float32),
            output_bias=np.zeros(dim, np.float32),
        ),
        has_time=has_time,
    )


def item_columns(catalogue: Catalogue) -> dict[str, list[Any]]:
    table = catalogue.table()
    return {name: table[f"f_{name}"].to_pylist() for name in ("genre", "tags", "maker", "price")}


def item_features(catalogue: Catalogue) -> FeatureEncoder:
    columns = item_columns(catalogue)
    return FeatureEncoder.fit(columns, {name: ROLES[name] for name in columns})


def item_tower(catalogue: Catalogue) -> ItemEncoder:
    """Items of the same features lie near each other; what clicks have taught of the catalogue's
    items makes up for the rest, so that an item described as it is keeps its vector.
    """
    dim, features = catalogue.vectors.shape[1], item_features(catalogue)
    rng = np.random.default_rng(29)
    tokens = rng.normal(size=(features.vocabulary_size, dim)).astype(np.float32) / 4
    tokens[0] = 0
    numeric = rng.normal(size=(len(features.numeric_features), dim)).astype(np.float32) / 9
    any_item = np.eye(1, dim, 1, dtype=np.float32)[0]
    about = features.encode(item_columns(catalogue), len(catalogue.keys))
    content = np.einsum("ns,nsd->nd", about.weights, tokens[about.tokens])
    return ItemEncoder(
        features=features,
        keys=catalogue.keys,
        own=catalogue.vectors - any_item - content - about.numeric @ numeric,
        tokens=tokens,
        numeric=numeric,
        any_item=any_item,
    )


def content_shared(catalogue: Catalogue) -> SharedData:
    """How contents are made of features: every token says as much, in a direction of its own."""
    features = item_features(catalogue)
    terms = features.vocabulary_size - 1
    rng = np.random.default_rng(31)
    basis = rng.normal(size=(terms + len(features.numeric_features), 8)).astype(np.float32)
    return SharedData(
        arrays={"idf": np.ones(terms, np.float32), "basis": basis},
        settings={"items": features.document()},
    )


def meta_of(catalogue: Catalogue, shards: int) -> dict[str, Any]:
    owner = shard_of(catalogue.keys, shards)
    return {
        "tier": "retrieval",
        "dim": catalogue.vectors.shape[1],
        "shards": shards,
        "items_total": len(catalogue.keys),
        "items_per_shard": np.bincount(owner, minlength=shards).tolist(),
        "watermark_ms": WATERMARK_MS,
        "item_features": ROLES,
        "sources": list(SOURCES),
    }


def clustered(rows: int, dim: int, *, seed: int, spread: float = 0.4) -> Floats:
    """float32 [rows, dim] unit vectors around one centre per 100 rows, as trained items lie."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(max(1, rows // 100), dim)))
    noise = rng.normal(size=(rows, dim)) * spread / np.sqrt(dim)
    return unit(centres[rng.integers(len(centres), size=rows)] + noise)


def unit(vectors: npt.NDArray[Any]) -> Floats:
    """Vectors of length 1, along the last axis."""
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def user_who_liked(*keys: int, **attributes: AttributeValue) -> UserContext:
    """Someone with that history, oldest first."""
    return UserContext(
        user_key=1,
        history=History(
            keys=np.array(keys, np.uint64),
            times_ms=np.zeros(len(keys), np.int64),
            weights=np.ones(len(keys), np.float32),
        ),
        attributes=attributes,
        time_ms=WATERMARK_MS,
    )


def query(
    user: UserContext | None = None, *, exclude: Keys | None = None, **changes: Any
) -> RetrieveQuery:
    """Ten of each source unless `changes` say otherwise."""
    fields: dict[str, Any] = {
        "request_id": "r1",
        "user": user or user_who_liked(),
        "quotas": {"two_tower": 10, "popular": 10},
        "exclude": np.empty(0, np.uint64) if exclude is None else exclude,
    }
    return RetrieveQuery(**(fields | changes))
