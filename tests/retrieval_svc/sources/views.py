"""Single sources over a few items, without files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval_svc.brute_force import Floats, Hits
from retrieval_svc.rows import NO_ROWS, Allowed
from retrieval_svc.source_data import PostingLists, SharedData, SourceData
from retrieval_svc.sources import SOURCES, SliceView, Source, SourceQuery
from shortlist.ids import keys_of
from shortlist.tiers import AttributeValue, History, UserContext

WATERMARK_MS = 1_000_000
KEYS = np.sort(keys_of(f"item-{number}" for number in range(6)))


def view_of(
    name: str,
    *,
    columns: Mapping[str, Any] | None = None,
    lists: Mapping[str, PostingLists] | None = None,
    arrays: Mapping[str, Any] | None = None,
    siblings: Mapping[str, SliceView] | None = None,
    **settings: Any,
) -> SliceView:
    """What the source `name` sees; rows are those of `KEYS` unless columns say otherwise."""
    n = len(next(iter((columns or {"": KEYS}).values())))
    return SliceView(
        source=name,
        keys=KEYS[:n],
        vectors=np.eye(n, dtype=np.float32),
        watermark_ms=WATERMARK_MS,
        data=SourceData(columns=columns or {}, lists=lists or {}),
        shared=SharedData(arrays=arrays or {}, settings=settings),
        slice_folder=Path("shard-00000"),
        artifact=Path("artifact"),
        siblings=siblings or {},
    )


def open_source(view: SliceView) -> Source:
    return SOURCES[view.source].open(view)


def ask(
    source: Source,
    history: Sequence[int | tuple[int, float]] = (),
    *,
    k: int = 10,
    exclude: Sequence[int] = (),
    attributes: Mapping[str, AttributeValue] | None = None,
    context: Mapping[str, AttributeValue] | None = None,
) -> dict[int, float]:
    """Rows and scores, best first; the history holds rows of `KEYS`, or (row, weight)."""
    rows, scores = hits_of(source, history, k, exclude, attributes, context)
    return dict(zip(rows.tolist(), scores.tolist(), strict=True))


def hits_of(
    source: Source,
    history: Sequence[int | tuple[int, float]],
    k: int,
    exclude: Sequence[int],
    attributes: Mapping[str, AttributeValue] | None,
    context: Mapping[str, AttributeValue] | None,
) -> Hits:
    events = [event if isinstance(event, tuple) else (event, 1.0) for event in history]
    user = UserContext(
        user_key=1,
        history=history_of([(int(KEYS[row]), weight) for row, weight in events]),
        attributes=attributes or {},
        context=context or {},
        time_ms=WATERMARK_MS,
    )
    excluded = np.array(sorted(exclude), np.int64) if exclude else NO_ROWS
    return source.propose(SourceQuery(user=user, allowed=Allowed(exclude=excluded)), k)


def history_of(events: Sequence[tuple[int, float]]) -> History:
    """From (item key, weight), oldest first."""
    return History(
        keys=np.array([key for key, _ in events], np.uint64),
        times_ms=np.zeros(len(events), np.int64),
        weights=np.array([weight for _, weight in events], np.float32),
    )


def lists_of(postings: Mapping[int, Mapping[int, float]]) -> PostingLists:
    """From term -> row -> weight."""
    flat = [(term, row, weight) for term, rows in postings.items() for row, weight in rows.items()]
    terms, rows, weights = zip(*flat, strict=True) if flat else ((), (), ())
    return PostingLists.of(
        np.array(terms, np.uint64), np.array(rows, np.int32), np.array(weights, np.float32)
    )


def floats(rows: Any) -> Floats:
    return np.array(rows, np.float32)
