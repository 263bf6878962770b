"""A slice of random items that follows a log, without a store: changes are made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval_svc.folding import FoldPolicy
from retrieval_svc.generation import Generation
from retrieval_svc.live import LiveGeneration
from retrieval_svc.slice_files import RetrievalMeta
from retrieval_svc.sources import SOURCES
from shortlist.ids import key_of, keys_of
from shortlist.live import CatalogItem, Changes, EventColumns, ItemChange
from shortlist.tiers import RetrievedSlice, RetrieveQuery
from tests.retrieval_svc.factory import (
    WATERMARK_MS,
    Catalogue,
    meta_of,
    query,
    user_who_liked,
    write_files,
)

NEVER = FoldPolicy(fewest=10**9, most=10**9)


def live_slice(
    folder: Path,
    catalogue: Catalogue,
    *,
    shards: int = 1,
    shard: int = 0,
    exact_below: int = 20_000,
    **options: Any,
) -> LiveGeneration:
    """One slice, written into the empty `folder`."""
    write_files(folder, catalogue, shards=shards, exact_below=exact_below, k=100)
    return opened(folder, catalogue, shards=shards, shard=shard, **options)


def opened(
    folder: Path, catalogue: Catalogue, *, shards: int = 1, shard: int = 0, **options: Any
) -> LiveGeneration:
    meta = RetrievalMeta.read(meta_of(catalogue, shards), folder)
    generation = Generation.open_folder(folder, meta, shard, version="v")
    options = {"policy": NEVER, "clock_ms": lambda: WATERMARK_MS} | options
    return LiveGeneration(generation, **options)


def item(id: str, **changes: Any) -> CatalogItem:
    attributes = {"genre": "genre-3", "tags": ("new", "tag-1"), "maker": "ann", "price": 7.0}
    return CatalogItem(
        id=id,
        title=changes.pop("title", f"Title of {id}"),
        attributes=attributes | changes.pop("attributes", {}),
        **changes,
    )


def changes(
    *upserted: CatalogItem, deleted: Sequence[str] = (), events: EventColumns | None = None
) -> Changes:
    found = [ItemChange(sequence=1, key=key_of(one.id), item=one) for one in upserted]
    found += [ItemChange(sequence=1, key=key_of(id), item=None) for id in deleted]
    return Changes(sequence=1, head=1, items=tuple(found), events=events or likes())


def likes(*ids: str, time_ms: int = WATERMARK_MS + 1000) -> EventColumns:
    """One event an id."""
    n = len(ids)
    return EventColumns(
        sequences=np.arange(n),
        user_keys=np.zeros(n, np.uint64),
        item_keys=keys_of(ids),
        times_ms=np.full(n, time_ms),
        weights=np.ones(n, np.float32),
        values=np.full(n, np.nan, np.float32),
        places=((),) * n,
    )


def ask(live: LiveGeneration, *liked: str, k: int = 2000, **wishes: Any) -> RetrievedSlice:
    """What every source proposes to somebody in New Zealand who liked some items."""
    user = user_who_liked(*map(key_of, liked), country="NZ")
    answer = live.retrieve(everything(user, k, **wishes))
    assert answer.failures == ()
    return answer


def everything(user: Any, k: int, **wishes: Any) -> RetrieveQuery:
    return query(user, quotas=dict.fromkeys(SOURCES, k), **wishes)


def proposed(answer: RetrievedSlice) -> dict[str, dict[int, float]]:
    """Scores by key, by source."""
    return {
        one.source: dict(zip(one.keys.tolist(), one.scores.tolist(), strict=True))
        for one in answer.sources
    }


def sources_with(answer: RetrievedSlice, id: str) -> set[str]:
    """The sources that propose an item."""
    return {name for name, scores in proposed(answer).items() if key_of(id) in scores}
