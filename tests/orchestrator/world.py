"""A small catalogue behind real, if simple, tiers: exact search over arrays, a ranker by key.

The switches (`fails`, `delay_s`, `version`) make a tier misbehave on purpose.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from orchestrator.assemble import assemble
from orchestrator.pipeline import Recommender
from retrieval_svc.item_filter import FilterColumn, ItemFilter
from retrieval_svc.rows import Rows
from shortlist.admin import LoadedVersion, TierStatus
from shortlist.config import Config
from shortlist.errors import InvalidField, NotImplementedYet, VersionNotServed
from shortlist.ids import key_of, keys_of, shard_of
from shortlist.page import Page, PageRequest
from shortlist.schema import Schema
from shortlist.stores import Profile, ProfileStore, Store
from shortlist.stores.memory import MemoryProfileStore
from shortlist.telemetry import Watches
from shortlist.tiers import (
    Floats,
    History,
    ItemCards,
    Keys,
    LogPosition,
    RankerStatus,
    RetrievedSlice,
    RetrieveQuery,
    RetrieverStatus,
    ScoreQuery,
    Scores,
    SourceCandidates,
    StageFailure,
)
from tests.patience import PATIENT

DIM = 8
WATERMARK_MS = 1_600_000_000_000
DAY_MS = 86_400_000
NOW_MS = WATERMARK_MS + DAY_MS
SOURCES = ("two_tower", "popular")


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Items `i0`, `i1`, ...; rows of all columns are aligned."""

    ids: tuple[str, ...]
    keys: Keys
    vectors: Floats  # float32 [n, DIM], unit length
    popularity: Floats  # with many ties
    genres: tuple[tuple[str, ...], ...]

    @staticmethod
    def of(items: int, seed: int = 7) -> Catalogue:
        rng = np.random.default_rng(seed)
        vectors = rng.normal(size=(items, DIM)).astype(np.float32)
        ids = tuple(f"i{n}" for n in range(items))
        return Catalogue(
            ids=ids,
            keys=keys_of(ids),
            vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
            popularity=rng.integers(0, 20, items).astype(np.float32),
            genres=tuple((f"g{n % 5}",) for n in range(items)),
        )

    def row(self, key: int) -> int:
        return int(np.flatnonzero(self.keys == key)[0])


class ArrayShard:
    """A `Retriever` by exact search over one slice of a catalogue."""

    def __init__(
        self, catalogue: Catalogue, shard: int = 0, shards: int = 1, version: str = "v1"
    ) -> None:
        rows = np.flatnonzero(shard_of(catalogue.keys, shards) == shard)
        self.catalogue, self.rows = catalogue, rows
        self.keys = catalogue.keys[rows]
        self._filter = ItemFilter(_filter_columns(catalogue, rows))
        self.shard, self.shards = shard, shards
        self.version = version  # active
        self.sources: tuple[str, ...] = SOURCES
        self.also: tuple[str, ...] = ()  # served as well when pinned
        self.fails: Exception | None = None
        self.fails_describe: Exception | None = None
        self.failing_source = ""
        self.fusion: dict[str, tuple[float, float]] = {}  # source -> weight, offset
        self.delay_s = 0.0
        self.forgets: Keys = np.empty(0, np.uint64)  # proposed, but gone when described
        self.log: Store | None = None  # the store whose log it knows to the end
        self.lag_ms = 0
        self.queries: list[RetrieveQuery] = []
        self.groups_asked: list[bool] = []  # of each description
        self.closed = False

    @property
    def name(self) -> str:
        return f"array/{self.shard}"

    async def retrieve(self, query: RetrieveQuery) -> RetrievedSlice:
        self.queries.append(query)
        await self._misbehave(self.fails)
        version = self._pinned(query.index_version)
        names = [name for name in query.quotas if self._can(name)]
        failures = [name for name in query.quotas if not self._can(name)]
        return RetrievedSlice(
            shard=self.shard,
            shards=self.shards,
            index_version=version,
            sources=tuple(self._propose(name, query) for name in names),
            items_searched=len(self.keys),
            failures=tuple(
                StageFailure(stage=f"source/{name}", reason="SOURCE_FAILED", detail="KeyError")
                for name in failures
            ),
            unknown=self._unknown(query.check),
            log=await self._position(),
        )

    async def describe(
        self, keys: Keys, fields: tuple[str, ...], index_version: str | None, groups: bool = True
    ) -> ItemCards:
        self.groups_asked.append(groups)
        await self._misbehave(self.fails or self.fails_describe)
        version = self._pinned(index_version)
        own = keys[np.isin(keys, self.keys) & ~np.isin(keys, self.forgets)]
        rows = [self.catalogue.row(key) for key in own.tolist()]
        return ItemCards(
            index_version=version,
            keys=own,
            ids=tuple(self.catalogue.ids[row] for row in rows),
            titles=tuple(f"Title {self.catalogue.ids[row]}" for row in rows),
            vectors=self.catalogue.vectors[rows],
            groups={"genre": tuple(self.catalogue.genres[row] for row in rows)} if groups else {},
            attributes=tuple(
                {name: self.catalogue.genres[row] for name in fields if name == "genre"}
                for row in rows
            ),
        )

    async def status(self) -> RetrieverStatus:
        await self._misbehave(self.fails)
        active = RetrieverStatus(
            shard=self.shard,
            shards=self.shards,
            index_version=self.version,
            items=len(self.keys),
            items_total=len(self.catalogue.keys),
            sources=self.sources,
            watermark_ms=WATERMARK_MS,
            log=await self._position(),
        )
        others = tuple(replace(active, index_version=version) for version in self.also)
        return replace(active, others=others)

    async def close(self) -> None:
        self.closed = True

    async def _position(self) -> LogPosition:
        """A small exact search does not leave out what is gone: the second lock has to."""
        sequence = await self.log.head() if self.log else 0
        return LogPosition(sequence=sequence, lag_ms=self.lag_ms)

    async def _misbehave(self, error: Exception | None) -> None:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if error is not None:
            raise error

    def _pinned(self, version: str | None) -> str:
        if version not in (None, self.version, *self.also):
            raise VersionNotServed(f"shard {self.shard} serves {self.version}, not {version}")
        return version or self.version

    def _can(self, source: str) -> bool:
        return source in self.sources and source != self.failing_source

    def _propose(self, source: str, query: RetrieveQuery) -> SourceCandidates:
        scores = self._scores(source, query.user.history)
        matching = self._filter.matching(query.filter)
        allowed = ~np.isin(self.keys, query.exclude)
        rows = np.flatnonzero(allowed if matching is None else allowed & matching.passes)
        best = rows[np.lexsort((self.keys[rows], -scores[rows]))][: query.quotas[source]]
        weight, offset = self.fusion.get(source, (1.0, 60.0))
        return SourceCandidates(
            source=source,
            keys=self.keys[best],
            scores=scores[best],
            weight=weight,
            offset=offset,
        )

    def _scores(self, source: str, history: History) -> Floats:
        if source == "popular":
            return self.catalogue.popularity[self.rows]
        if source == "fresh":  # the last rows are the newest
            return self.rows.astype(np.float32)
        known = np.isin(self.catalogue.keys, history.keys)
        taste = self.catalogue.vectors[known].sum(axis=0) + np.float32(0.01)
        # Row by row: a matrix product may round differently for slices of other sizes.
        return (self.catalogue.vectors[self.rows] * taste).sum(axis=1)

    def _unknown(self, keys: Keys) -> int:
        mine = keys[shard_of(keys, self.shards) == self.shard]
        return int(np.count_nonzero(~np.isin(mine, self.keys)))


def _filter_columns(catalogue: Catalogue, rows: Rows) -> dict[str, FilterColumn]:
    texts = pa.list_(pa.string())
    return {
        "id": FilterColumn(pa.array([catalogue.ids[row] for row in rows]), "text"),
        "genre": FilterColumn(pa.array([catalogue.genres[row] for row in rows], texts), "text"),
        "popularity": FilterColumn(pa.array(catalogue.popularity[rows]), "number"),
        "published_at": FilterColumn(pa.array(rows * DAY_MS), "time"),
    }


class KeyRanker:
    """A `Ranker` by a fixed, arbitrary number for each item; its model `upside_down` negates it."""

    def __init__(self, version: str = "r1") -> None:
        self.name = f"ranker/{version}"
        self.version = version  # active
        self.also: tuple[str, ...] = ()  # served as well when pinned
        self.models: tuple[str, ...] = ("key", "upside_down")
        self.fails: Exception | None = None
        self.broken: dict[str, Exception] = {}  # by version
        self.waits: dict[str, asyncio.Event] = {}  # by version
        self.upside_down_in = ""  # version
        self.answers: Floats | None = None  # instead of the true scores
        self.delay_s = 0.0
        self.queries: list[ScoreQuery] = []
        self.closed = False

    async def score(self, query: ScoreQuery) -> Scores:
        self.queries.append(query)
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.fails is not None:
            raise self.fails
        version = query.model_version or self.version
        if version not in (self.version, *self.also):
            raise VersionNotServed(f"this ranker serves {self.version}, not {query.model_version}")
        if version in self.waits:
            await self.waits[version].wait()
        if version in self.broken:
            raise self.broken[version]
        model = query.model or self.models[0]
        if model not in self.models:
            raise InvalidField("model", f"unknown ranker {model!r}")
        scores = scores_by_key(query.candidates.keys) if self.answers is None else self.answers
        sign = -1 if model == "upside_down" or version == self.upside_down_in else 1
        return Scores(model_version=version, scores=sign * scores, model=model)

    async def status(self) -> RankerStatus:
        if self.fails is not None:
            raise self.fails
        active = RankerStatus(
            model_version=self.version, engine="key", items=0, watermark_ms=0, models=self.models
        )
        others = tuple(replace(active, model_version=version) for version in self.also)
        return replace(active, others=others)

    async def close(self) -> None:
        self.closed = True


def scores_by_key(keys: Keys) -> Floats:
    return (keys % np.uint64(1009)).astype(np.float32)


class FixedVersion:
    """A `VersionedTier` that says what an `ArrayShard` or a `KeyRanker` serves."""

    def __init__(self, tier: ArrayShard | KeyRanker) -> None:
        self._tier = tier

    def status(self) -> TierStatus:
        tier = self._tier
        if isinstance(tier, KeyRanker):
            loaded = LoadedVersion(
                version=tier.version, active=True, items=0, items_total=0, watermark_ms=0
            )
            return TierStatus(
                tier="ranking",
                versions=_with_others(loaded, tier.also),
                capabilities=("key",),
                models=tier.models,
            )
        loaded = LoadedVersion(
            version=tier.version,
            active=True,
            items=len(tier.keys),
            items_total=len(tier.catalogue.keys),
            watermark_ms=WATERMARK_MS,
        )
        return TierStatus(
            tier="retrieval",
            versions=_with_others(loaded, tier.also),
            capabilities=tier.sources,
            shard=tier.shard,
            shards=tier.shards,
        )

    async def prepare(self, version: str) -> None:
        raise NotImplementedYet(version)

    async def activate(self, version: str) -> str:
        raise NotImplementedYet(version)

    async def retire(self, version: str) -> None:
        raise NotImplementedYet(version)


def _with_others(active: LoadedVersion, others: tuple[str, ...]) -> tuple[LoadedVersion, ...]:
    return (active, *(replace(active, version=version, active=False) for version in others))


@dataclass
class World:
    """A whole system in one process, and its parts to play with."""

    catalogue: Catalogue
    shards: list[ArrayShard]
    rankers: list[KeyRanker]
    profiles: ProfileStore
    recommender: Recommender
    users: Mapping[str, Profile] = field(default_factory=dict)

    async def page(self, user_id: str = "ann", **fields: object) -> Page:
        return await self.recommender.recommend(PageRequest(user_id=user_id, **fields))  # type: ignore[arg-type]

    async def __aenter__(self) -> World:
        await self.recommender.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.recommender.close()


SCHEMA = Schema.of(
    {
        "name": "world",
        "interactions": [
            {
                "path": "events.csv",
                "event": "kind",
                "value": "stars",
                "context": {"device": {"role": "categorical"}},
            }
        ],
        "events": {
            "click": {"weight": 1.0},
            "rating": {"weight": 2.0, "positive_at": 3.0},
            "view": {"weight": 0.0},
        },
        "items": [
            {
                "path": "items.csv",
                "features": {
                    "title": {"role": "title"},
                    "genre": {"role": "multi_categorical"},
                    "maker": {"role": "creator"},
                    "price": {"role": "numeric"},
                    "released": {"role": "timestamp"},
                    "about": {"role": "text"},
                    "from": {"role": "geo"},
                },
            }
        ],
    }
)
EVENTS = SCHEMA.events


def a_world(
    items: int = 300,
    shards: int = 2,
    *,
    config: Config | None = None,
    profiles: ProfileStore | None = None,
    store: Store | None = None,
    replicas: int = 1,
    rankers: int = 1,
    watches: Watches | None = None,
    scorers: Sequence[KeyRanker] = (),
) -> World:
    """Users `ann` (20 items of history) and `bob` (2); `now` is a day after the watermark."""
    catalogue = Catalogue.of(items)
    groups = [
        [ArrayShard(catalogue, shard, shards) for _ in range(replicas)] for shard in range(shards)
    ]
    scorers = scorers or [KeyRanker() for _ in range(rankers)]
    users = {
        "ann": a_user("ann", catalogue, range(20)),
        "bob": a_user("bob", catalogue, range(40, 42)),
    }
    profiles = profiles or store or MemoryProfileStore(users.items())
    recommender = assemble(
        config or Config(serving=PATIENT),
        groups,
        scorers,
        profiles,
        store=store,
        schema=SCHEMA,
        clock=lambda: NOW_MS / 1000,
        watches=watches,
    )
    return World(
        catalogue=catalogue,
        shards=[replica for group in groups for replica in group],
        rankers=list(scorers),
        profiles=profiles,
        recommender=recommender,
        users=users,
    )


def a_user(user_id: str, catalogue: Catalogue, rows: range) -> Profile:
    keys = catalogue.keys[rows.start : rows.stop]
    times = WATERMARK_MS - DAY_MS + np.arange(len(keys), dtype=np.int64)
    history = History(keys=keys, times_ms=times, weights=np.ones(len(keys), np.float32))
    return Profile(
        user_key=key_of(user_id), history=history, seen=keys, attributes={"country": "is"}
    )


def reasons(page: Page) -> list[str]:
    return [str(one.reason) for one in page.degradations]


def item_ids(page: Page) -> list[str]:
    return [item.id for item in page.items]
