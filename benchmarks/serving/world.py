"""A catalogue of any size and rankers of a trained shape, as artifacts that the product serves.

Nothing is trained: what a request costs depends on sizes and shapes, not on what was learned. Items
are clustered unit vectors and users like items of a few clusters, so the search has what a trained
two-tower gives it. Everything is written by the code that training writes with, and loaded and
verified by the code that serves.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import yaml

from benchmarks.serving.rankers import FORMS, write_ranking
from retrieval_svc.encoder import TowerWeights, UserEncoder, user_columns
from retrieval_svc.item_encoder import ItemEncoder
from retrieval_svc.source_data import SharedData, SourceData
from shortlist.artifacts import ArtifactStore
from shortlist.config import Config
from shortlist.features import FeatureEncoder
from shortlist.ids import key_of, keys_of
from shortlist.schema import Schema
from shortlist.stores import Profile
from shortlist.stores.opening import open_store
from shortlist.tiers import History, UserContext
from training.shards import TOWER_SOURCE, Writer
from training.sources.base import TrainedSource

__all__ = ["Encoders", "Probes", "World", "WorldShape", "prepare"]

Floats = npt.NDArray[np.float32]
Keys = npt.NDArray[np.uint64]
Tell = Callable[[str], None]

_CLUSTER = 500  # items
_SPREAD = 0.6  # length of an item's offset from the centre of its cluster, which has length 1
_TOKEN_DIM = 8
_HIDDEN = 64
_HISTORY = (5, 60)  # events of a user
_TASTES = 3  # clusters that a user likes
_FITTED = 50_000  # items that vocabularies are learned from
_TUNING_USERS = 256
_PROBES = 200  # users whose exact neighbours are known
_DAY_MS = 86_400_000

SCHEMA = """
name: serving benchmark
interactions:
  - path: events.csv
    context:
      device: {role: categorical}
items:
  - path: items.csv
    features:
      title: {role: title}
      category: {role: multi_categorical}
      creator: {role: creator}
      language: {role: categorical}
      kind: {role: categorical}
      price: {role: numeric}
      length: {role: numeric}
users:
  - path: users.csv
    features:
      country: {role: categorical}
      age: {role: categorical}
      language: {role: categorical}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldShape:
    """What a world is made of; equal shapes give equal worlds."""

    items: int = 1_000_000
    users: int = 20_000
    dim: int = 64
    candidates: int = 1000
    recall_target: float = 0.97
    shards: tuple[int, ...] = (1, 2)  # a retrieval version each
    forms: tuple[str, ...] = tuple(FORMS)  # a ranking version each
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """Of the three sides."""

    item: FeatureEncoder
    user: FeatureEncoder
    context: FeatureEncoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """Users and the items that an exact search finds for them, but those that they have seen."""

    users: tuple[str, ...]
    vectors: Floats  # float32 [users, dim], at the moment `now_ms`
    seen: Keys  # uint64 [users, most], 0 = none
    exact: Keys  # uint64 [users, k], ascending in each row
    now_ms: int

    def save(self, path: Path) -> None:
        np.savez(
            path,
            users=np.array(self.users),
            vectors=self.vectors,
            seen=self.seen,
            exact=self.exact,
            now_ms=np.array(self.now_ms),
        )

    @staticmethod
    def load(path: Path) -> Probes:
        with np.load(path, allow_pickle=False) as arrays:
            return Probes(
                users=tuple(arrays["users"].tolist()),
                vectors=arrays["vectors"],
                seen=arrays["seen"],
                exact=arrays["exact"],
                now_ms=int(arrays["now_ms"]),
            )


class World:
    """Items in the order of their keys, and users, at random."""

    def __init__(self, shape: WorldShape, *, now_ms: int) -> None:
        self.shape = shape
        self.now_ms = now_ms
        rng = np.random.default_rng(shape.seed)
        ids = np.array([f"item-{number:08d}" for number in range(shape.items)])
        keys = keys_of(ids.tolist())
        order = np.argsort(keys)
        self.keys: Keys = keys[order]
        self.ids = ids[order]
        clusters = max(1, shape.items // _CLUSTER)
        self.cluster = rng.integers(clusters, size=shape.items)
        self.vectors = _clustered(self.cluster, clusters, shape.dim, rng)
        self.popularity = rng.pareto(1.2, shape.items) + 1.0
        self.published_ms = now_ms - rng.integers(0, 1000, shape.items) * _DAY_MS
        self._rng = rng

    @cached_property
    def items(self) -> pa.Table:
        """As an import leaves them."""
        n, rng = self.shape.items, self._rng
        some = np.array([f"category-{number}" for number in range(40)])
        pairs = some[rng.integers(len(some), size=(n, 2))]
        offsets = pa.array(np.arange(0, 2 * n + 1, 2), pa.int32())
        creators = np.char.add("creator-", rng.integers(max(2, n // 100), size=n).astype(str))
        return pa.table(
            {
                "key": self.keys,
                "id": self.ids,
                "title": np.char.add("Title of ", self.ids),
                "published_ms": self.published_ms,
                "f_category": pa.ListArray.from_arrays(offsets, _texts(pairs.ravel())),
                "f_creator": pa.ListArray.from_arrays(
                    pa.array(np.arange(n + 1), pa.int32()), _texts(creators)
                ),
                "f_language": np.array(["en", "de", "fr", "ja"])[rng.integers(4, size=n)],
                "f_kind": np.array(["long", "short", "live"])[rng.integers(3, size=n)],
                "f_price": rng.gamma(2.0, 5.0, n).astype(np.float32),
                "f_length": rng.gamma(2.0, 20.0, n).astype(np.float32),
            }
        )

    @cached_property
    def encoders(self) -> Encoders:
        roles = {name: one.role for name, one in _schema().item_features.items()}
        rows = self._rng.permutation(self.shape.items)[:_FITTED]
        few = self.items.take(pa.array(np.sort(rows)))
        columns = {name: few["title" if name == "title" else f"f_{name}"] for name in roles}
        roles.pop("title")  # every title has words of its own
        texts = {name: column.to_pylist() for name, column in columns.items()}
        return Encoders(
            item=FeatureEncoder.fit(texts, roles, max_vocabulary=20_000),
            user=FeatureEncoder.fit(
                {
                    "country": [f"country-{at % 30}" for at in range(90)],
                    "age": [f"age-{at % 7}" for at in range(90)],
                    "language": ["en", "de", "fr"] * 30,
                },
                dict.fromkeys(("country", "age", "language"), "categorical"),
            ),
            context=FeatureEncoder.fit(
                {"device": ["phone", "desk", "tv"] * 2}, {"device": "categorical"}
            ),
        )

    def user_ids(self) -> list[str]:
        return [f"user-{number:06d}" for number in range(self.shape.users)]

    def profiles(self) -> Iterator[tuple[str, Profile]]:
        """Everybody, with what they liked: popular items of a few clusters."""
        rng = np.random.default_rng(self.shape.seed + 1)
        by_cluster = np.argsort(self.cluster, kind="stable")
        starts = np.searchsorted(self.cluster[by_cluster], np.arange(self.cluster.max() + 2))
        for user_id in self.user_ids():
            tastes = rng.integers(self.cluster.max() + 1, size=_TASTES)
            wanted = rng.integers(*_HISTORY)
            which = tastes[rng.integers(_TASTES, size=wanted)]
            places = starts[which] + (rng.random(wanted) * (starts[which + 1] - starts[which]))
            rows = np.unique(by_cluster[np.minimum(places.astype(np.int64), len(by_cluster) - 1)])
            rng.shuffle(rows)
            times = np.sort(self.now_ms - rng.integers(1, 90 * _DAY_MS, len(rows)))
            history = History(
                keys=self.keys[rows],
                times_ms=times.astype(np.int64),
                weights=np.ones(len(rows), np.float32),
            )
            yield (
                user_id,
                Profile(
                    user_key=key_of(user_id),
                    history=history,
                    seen=self.keys[rows],
                    attributes={
                        "country": f"country-{rng.integers(30)}",
                        "age": f"age-{rng.integers(7)}",
                        "language": "en",
                    },
                ),
            )

    @cached_property
    def tower(self) -> UserEncoder:
        """A user lies where what they liked lies, give or take what the features say."""
        rng = np.random.default_rng(self.shape.seed + 2)
        encoders, dim = self.encoders, self.shape.dim
        width = 2 * _TOKEN_DIM + user_columns(encoders.user, encoders.context)

        def small(*shape: int) -> Floats:
            return rng.normal(0, 0.02, shape).astype(np.float32)

        weights = TowerWeights(
            position=np.linspace(-2, 0, 50, dtype=np.float32),
            user_tokens=small(encoders.user.vocabulary_size, _TOKEN_DIM),
            context_tokens=small(encoders.context.vocabulary_size, _TOKEN_DIM),
            history_map=np.eye(dim, dtype=np.float32),
            feature_map=small(width, dim),
            bias=small(dim),
            hidden_map=small(2 * dim + width, _HIDDEN),
            hidden_bias=small(_HIDDEN),
            output_map=small(_HIDDEN, dim),
            output_bias=small(dim),
        )
        return UserEncoder(
            keys=self.keys,
            vectors=self.vectors,
            user=encoders.user,
            context=encoders.context,
            weights=weights,
            has_time=True,
        )

    def vector_of(self, profile: Profile) -> Floats:
        """What the tower makes of a user just now."""
        return self.tower.encode(
            UserContext(
                user_key=profile.user_key,
                history=profile.history,
                attributes=profile.attributes,
                time_ms=self.now_ms,
            )
        )


def prepare(folder: Path, shape: WorldShape, tell: Tell) -> None:
    """Make the workdir `folder`, unless it holds a world of this shape already."""
    mark = folder / "world.json"
    if mark.exists() and json.loads(mark.read_text("utf-8")) == _as_json(shape):
        return
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} holds something else; name an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    tell(f"making {shape.items:,} items")
    world = World(shape, now_ms=time.time_ns() // 1_000_000)
    (folder / "schema.yaml").write_text(SCHEMA, "utf-8")
    settings = _settings(shape)
    # Defaults stay what they are when it is served, however old the world is.
    (folder / "shortlist.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), "utf-8")
    config = Config.model_validate(settings)
    store = ArtifactStore(folder / "artifacts")
    queries = np.stack([world.vector_of(one) for _, one in _first(world, _TUNING_USERS)])
    for shards in shape.shards:
        tell(f"indexing for {shards} shard(s)")
        _write_retrieval(store, world, config, shards, queries)
    for name in shape.forms:
        tell(f"writing the ranker {name}")
        write_ranking(store, FORMS[name], world)
    tell("writing profiles")
    asyncio.run(_write_profiles(folder, config, world))
    tell("searching exactly")
    _probe(world).save(folder / "probes.npz")
    mark.write_text(json.dumps(_as_json(shape)), "utf-8")


def _write_retrieval(
    store: ArtifactStore, world: World, config: Config, shards: int, queries: Floats
) -> None:
    settings = config.retrieval.model_copy(update={"shards": shards})
    with store.stage("retrieval") as staged:
        writer = Writer(staged.path, world.keys, settings, shards)
        writer.make_folders()
        tower = staged.path / "tower"
        tower.mkdir()
        world.tower.save(tower)
        _item_encoder(world).save(tower)
        writer.write_shared(TOWER_SOURCE, SharedData())
        reports: list[Any] = []
        for shard in range(shards):
            writer.write_items(world.keys, world.vectors, world.items, shard)
            reports.append(
                writer.write_index(TOWER_SOURCE, world.vectors, shard, queries=queries, seed=0)
            )
        writer.write_trained(_popular(world), seed=0)
        features = _schema().item_features.items()
        sizes: list[Any] = list(writer.items_per_shard)
        staged.publish(
            version=retrieval_version(shards),
            meta={
                "dim": world.shape.dim,
                "shards": shards,
                "items_total": world.shape.items,
                "items_per_shard": sizes,
                "watermark_ms": world.now_ms,
                "item_features": {name: one.role for name, one in features},
                "sources": [TOWER_SOURCE, "popular"],
                "indexed": {TOWER_SOURCE: "vectors"},
                "metrics": {"index": {TOWER_SOURCE: reports}},
            },
        )


def retrieval_version(shards: int) -> str:
    return f"shards-{shards}"


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


def _popular(world: World) -> TrainedSource:
    """What the orchestrator falls back to when no shard answers; no page here asks for it."""
    counts = world.popularity.astype(np.float64)
    return TrainedSource(
        name="popular",
        data=SourceData(
            columns={
                "count": counts,
                "always": counts,
                "since_ms": world.published_ms,
                "prior": np.full(len(counts), counts.mean()),
            }
        ),
        shared=SharedData(
            arrays={"groups": np.empty(0, np.uint64), "rates": np.empty(0)},
            settings={
                "as_of_ms": world.now_ms,
                "begin_ms": int(world.published_ms.min()),
                "half_life_ms": 30.0 * _DAY_MS,
                "trust": 0.1,
                "mean_rate": float(counts.mean()),
                "prior_features": [],
            },
        ),
    )


async def _write_profiles(folder: Path, config: Config, world: World) -> None:
    store = open_store(config.store, folder)
    try:
        await store.replace_base(world.profiles(), ())
    finally:
        await store.close()


def _probe(world: World) -> Probes:
    people = list(_first(world, _PROBES))
    vectors = np.stack([world.vector_of(profile) for _, profile in people])
    seen = np.zeros((len(people), max(len(one.seen) for _, one in people)), np.uint64)
    exact = []
    for at, (_, profile) in enumerate(people):
        seen[at, : len(profile.seen)] = profile.seen
        scores = world.vectors @ vectors[at]
        scores[np.searchsorted(world.keys, profile.seen)] = -np.inf
        best = np.argpartition(-scores, world.shape.candidates)[: world.shape.candidates]
        exact.append(np.sort(world.keys[best]))
    return Probes(
        users=tuple(user_id for user_id, _ in people),
        vectors=vectors,
        seen=seen,
        exact=np.stack(exact),
        now_ms=world.now_ms,
    )


def _first(world: World, count: int) -> Iterator[tuple[str, Profile]]:
    for _, one in zip(range(count), world.profiles(), strict=False):
        yield one


def _settings(shape: WorldShape) -> dict[str, Any]:
    """One source, as the peers have; time enough that a busy machine is slow, and not wrong."""
    names = Config().retrieval.quotas
    return {
        "retrieval": {
            "candidates": shape.candidates,
            "quotas": {name: shape.candidates * (name == TOWER_SOURCE) for name in names},
            "guaranteed": dict.fromkeys(names, 0),
            "recall_target": shape.recall_target,
        },
        "ranking": {"default": "dcn"},
        "serving": {
            "retrieval_budget_ms": 2000,
            "ranking_budget_ms": 4000,
            "describe_budget_ms": 2000,
            "request_budget_ms": 8000,
            "max_concurrency": 64,
        },
    }


def _texts(texts: npt.NDArray[np.str_]) -> pa.Array:
    """In one piece: large ones become several."""
    column = pa.array(texts)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _schema() -> Schema:
    return Schema.parse(SCHEMA)


def _clustered(
    cluster: npt.NDArray[np.int64], clusters: int, dim: int, rng: np.random.Generator
) -> Floats:
    centres = _unit(rng.normal(size=(clusters, dim)).astype(np.float32))
    offsets = rng.standard_normal((len(cluster), dim), np.float32)
    offsets *= np.float32(_SPREAD / np.sqrt(dim))
    return _unit(centres[cluster] + offsets)


def _unit(vectors: Floats) -> Floats:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _as_json(shape: WorldShape) -> dict[str, object]:
    return {**asdict(shape), "shards": list(shape.shards), "forms": list(shape.forms)}
