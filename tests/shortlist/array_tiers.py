"""The smallest honest tiers: they answer from arrays, and tests can predict every answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from shortlist import wire
from shortlist.admin import LoadedVersion, TierStatus
from shortlist.errors import InvalidField, VersionNotServed
from shortlist.ids import keys_of, shard_of
from shortlist.serving import remaining_ms
from shortlist.tiers import (
    ItemCards,
    RankerStatus,
    RetrievedSlice,
    RetrieveQuery,
    RetrieverStatus,
    ScoreQuery,
    Scores,
    SourceCandidates,
    StageFailure,
)
from shortlist.v1 import (
    ranking_pb2,
    ranking_pb2_grpc,
    retrieval_pb2,
    retrieval_pb2_grpc,
)

VERSION = "v1"
MODELS = ("by_number", "shifted")
WATERMARK_MS = 1_600_000_000_000


class ArrayRetriever:
    """Shard 1 of 2 of the items `item-0` to `item-99`; proposes them by number, or backwards."""

    name = "array/1"

    def __init__(self) -> None:
        ids = [f"item-{number}" for number in range(100)]
        mine = shard_of(keys_of(ids), 2) == 1
        self._ids = [id for id, own in zip(ids, mine, strict=True) if own]
        self._keys = keys_of(self._ids)
        rng = np.random.default_rng(0)
        vectors = rng.normal(size=(len(self._ids), 4)).astype(np.float32)
        self._vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    async def retrieve(self, query: RetrieveQuery) -> RetrievedSlice:
        self._check_version(query.index_version)
        orders = {"forward": self._keys, "backward": self._keys[::-1]}
        return RetrievedSlice(
            shard=1,
            shards=2,
            index_version=VERSION,
            sources=tuple(
                self._source(name, orders[name], query, k)
                for name, k in query.quotas.items()
                if name in orders
            ),
            items_searched=len(self._keys),
            dropped={"excluded": int(np.isin(self._keys, query.exclude).sum())},
            failures=tuple(
                StageFailure(stage=f"source/{name}", reason="SOURCE_FAILED", detail="unknown")
                for name in query.quotas
                if name not in orders
            ),
            unknown=int(
                np.count_nonzero(
                    (shard_of(query.check, 2) == 1) & ~np.isin(query.check, self._keys)
                )
            ),
            duration_us=3,
        )

    async def describe(
        self,
        keys: wire.Keys,
        fields: tuple[str, ...],
        index_version: str | None,
        groups: bool = True,
    ) -> ItemCards:
        self._check_version(index_version)
        rows = [int(np.flatnonzero(self._keys == key)[0]) for key in keys if key in self._keys]
        return ItemCards(
            index_version=VERSION,
            keys=self._keys[rows],
            ids=tuple(self._ids[row] for row in rows),
            titles=tuple(f"Title {row}" if row else "" for row in rows),
            vectors=self._vectors[rows],
            groups={"genre": tuple((f"genre-{row % 3}",) if row % 5 else () for row in rows)}
            if groups
            else {},
            attributes=tuple({name: float(row) for name in fields} for row in rows),
        )

    async def status(self) -> RetrieverStatus:
        active = RetrieverStatus(
            shard=1,
            shards=2,
            index_version=VERSION,
            items=len(self._keys),
            items_total=100,
            sources=("forward", "backward"),
            watermark_ms=WATERMARK_MS,
        )
        beside = replace(active, index_version="v0", items=3, sources=("forward",))
        return replace(active, others=(beside,))

    async def close(self) -> None: ...

    def tier_status(self) -> TierStatus:
        return TierStatus(
            tier="retrieval",
            shard=1,
            shards=2,
            versions=(
                _loaded("v0", 3, active=False, capabilities=("forward",)),
                _loaded(VERSION, len(self._keys)),
            ),
            capabilities=("forward", "backward"),
        )

    def _source(
        self, name: str, order: wire.Keys, query: RetrieveQuery, k: int
    ) -> SourceCandidates:
        keys = order[~np.isin(order, query.exclude)][:k]
        return SourceCandidates(
            source=name,
            keys=keys,
            scores=np.linspace(1, 0, len(keys), dtype=np.float32),
            weight=0.1 * len(name),
            offset=7.3,
        )

    def _check_version(self, version: str | None) -> None:
        if version not in (None, VERSION):
            raise VersionNotServed(f"{version} is not loaded")


class ArrayRanker:
    """Knows the items `item-0` to `item-99`; the score falls with the number."""

    name = "array"

    def __init__(self) -> None:
        self._keys = keys_of(f"item-{number}" for number in range(100))

    async def score(self, query: ScoreQuery) -> Scores:
        if query.model_version not in (None, VERSION):
            raise VersionNotServed(f"{query.model_version} is not loaded")
        keys = query.candidates.keys
        known = np.isin(keys, self._keys)
        places = np.array([np.flatnonzero(self._keys == key)[0] for key in keys[known]], np.int64)
        scores = np.zeros(len(keys), np.float32)
        scores[known] = 1 / (1 + places)
        model = query.model or MODELS[0]
        if model not in MODELS:
            raise InvalidField("model", f"unknown ranker {model!r}; known: {', '.join(MODELS)}")
        return Scores(
            model_version=VERSION,
            scores=scores + query.candidates.fused if model == "shifted" else scores,
            model=model,
            unknown_items=int((~known).sum()),
            duration_us=5,
        )

    async def status(self) -> RankerStatus:
        active = RankerStatus(
            model_version=VERSION,
            engine="array",
            items=100,
            watermark_ms=WATERMARK_MS,
            models=MODELS,
        )
        beside = replace(active, model_version="v0", items=50, models=MODELS[:1])
        return replace(active, others=(beside,))

    async def close(self) -> None: ...

    def tier_status(self) -> TierStatus:
        return TierStatus(
            tier="ranking",
            versions=(
                _loaded(VERSION, 100),
                _loaded("v0", 50, active=False, models=MODELS[:1]),
            ),
            capabilities=("array",),
            models=MODELS,
        )


class ArrayRetrievalServicer(retrieval_pb2_grpc.RetrievalServicer):
    def __init__(self, retriever: ArrayRetriever) -> None:
        self._retriever = retriever

    async def Retrieve(  # noqa: N802
        self, request: retrieval_pb2.RetrieveRequest, context: Any
    ) -> retrieval_pb2.RetrieveResponse:
        query = wire.retrieve_query_from_proto(request, deadline_ms=remaining_ms(context))
        return wire.retrieved_slice_to_proto(await self._retriever.retrieve(query))

    async def Describe(  # noqa: N802
        self, request: retrieval_pb2.DescribeRequest, context: Any
    ) -> retrieval_pb2.DescribeResponse:
        cards = await self._retriever.describe(*wire.describe_request_from_proto(request))
        return wire.item_cards_to_proto(cards)


class ArrayRankingServicer(ranking_pb2_grpc.RankingServicer):
    def __init__(self, ranker: ArrayRanker) -> None:
        self._ranker = ranker

    async def Score(  # noqa: N802
        self, request: ranking_pb2.ScoreRequest, context: Any
    ) -> ranking_pb2.ScoreResponse:
        query = wire.score_query_from_proto(request, deadline_ms=remaining_ms(context))
        return wire.scores_to_proto(await self._ranker.score(query))


class FixedTier:
    """A `VersionedTier` that never changes."""

    def __init__(self, status: TierStatus) -> None:
        self._status = status

    def status(self) -> TierStatus:
        return self._status

    async def prepare(self, version: str) -> None: ...

    async def activate(self, version: str) -> str:
        return VERSION

    async def retire(self, version: str) -> None: ...


def _loaded(
    version: str,
    items: int,
    *,
    active: bool = True,
    capabilities: tuple[str, ...] = (),
    models: tuple[str, ...] = (),
) -> LoadedVersion:
    return LoadedVersion(
        version=version,
        active=active,
        items=items,
        items_total=100,
        watermark_ms=WATERMARK_MS,
        capabilities=capabilities,
        models=models,
    )
