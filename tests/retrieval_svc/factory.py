"""Small, valid retrieval artifacts from random vectors, without training."""

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
from retrieval_svc.index import build_index
from shortlist.artifacts import Artifact, ArtifactStore
from shortlist.features import FeatureEncoder
from shortlist.ids import keys_of, shard_of
from shortlist.tiers import History, RetrieveQuery, UserContext

Floats = npt.NDArray[np.float32]
Keys = npt.NDArray[np.uint64]

TEXTS = pa.list_(pa.string())
WATERMARK_MS = 1_700_000_000_000
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
    owner = shard_of(catalogue.keys, shards)
    table = catalogue.table()
    for shard in range(shards):
        rows = np.flatnonzero(owner == shard)
        home = folder / f"shard-{shard:05d}"
        home.mkdir()
        np.save(home / "keys.npy", catalogue.keys[rows])
        np.save(home / "vectors.npy", catalogue.vectors[rows])
        np.save(home / "popularity.npy", catalogue.popularity[rows])
        pq.write_table(table.take(pa.array(rows)), home / "items.parquet")
        build_index(
            catalogue.vectors[rows],
            home / "index",
            exact_below=exact_below,
            recall_target=0.9,
            k=k,
            seed=0,
        )


def mean_tower(catalogue: Catalogue) -> UserEncoder:
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
        has_time=True,
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
        "sources": ["two_tower", "popular"],
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


def user_who_liked(*keys: int) -> UserContext:
    return UserContext(
        user_key=1,
        history=History(
            keys=np.array(keys, np.uint64),
            times_ms=np.zeros(len(keys), np.int64),
            weights=np.ones(len(keys), np.float32),
        ),
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
