"""What has come in lately, the user's kind of things first."""

from __future__ import annotations

import math
from typing import Self

import numpy as np
import numpy.typing as npt

from retrieval_svc.brute_force import Floats, Hits, best
from retrieval_svc.rows import Rows, rows_of
from retrieval_svc.source_data import SourceData
from retrieval_svc.sources.base import CatalogueItems, Describer, SliceView, SourceQuery
from retrieval_svc.sources.chart import Chart
from retrieval_svc.sources.content import ContentTaste, content_vectors

__all__ = ["FreshSource"]


class FreshSource:
    """Scores are recency, 0 to 1, plus the cosine of content and taste where both are known."""

    name = "fresh"

    def __init__(
        self, rows: Rows, recency: Floats, taste: ContentTaste | None, contents: Floats
    ) -> None:
        self._rows = rows  # int64 [m], ascending: the new items
        self._recency = recency  # float32 [m]
        self._taste = taste
        self._contents = contents  # float32 [m, d]; d = 0 without a taste
        self._newest_first = Chart(recency, rows)

    @classmethod
    def open(cls, view: SliceView) -> Self:
        content = view.sibling("content")
        return cls._of(None if content is None else ContentTaste.open(content), view)

    def over(self, view: SliceView) -> Self:
        return self._of(self._taste, view)

    @classmethod
    def _of(cls, taste: ContentTaste | None, view: SliceView) -> Self:
        first_ms = view.column("first_ms", np.int64)
        after_ms = view.number("after_ms")
        rows = np.flatnonzero((first_ms > 0) & (first_ms >= after_ms))
        recency = _recency(first_ms[rows], after_ms, view.watermark_ms)
        content = view.sibling("content")
        if content is None or taste is None:
            return cls(rows, recency, None, np.empty((len(rows), 0), np.float32))
        return cls(rows, recency, taste, content_vectors(content, taste.dim)[rows])

    def describer(self, view: SliceView) -> Describer:
        return _FreshDescriber(view)

    def propose(self, query: SourceQuery, k: int) -> Hits:
        taste = self._taste.once(query) if self._taste else None
        if taste is None:
            return self._newest_first.best(k, query.allowed)
        allowed = np.flatnonzero(query.allowed.keep_ascending(self._rows))
        scores = (self._contents @ taste + self._recency)[allowed]
        top = best(scores, min(k, len(scores)))
        return self._rows[allowed[top]], scores[top]


class _FreshDescriber:
    """Since when items can be met with."""

    def __init__(self, view: SliceView) -> None:
        self._keys = view.keys
        # When an item was first met with, 0 = not: since then it is there, whatever anybody says.
        first_ms = view.column("first_ms", np.int64)
        self._met_ms = view.data.columns.get("met_ms", first_ms)
        # Nobody says when, but it was not there when the version was trained.
        self._lately_ms = max(view.watermark_ms, math.ceil(view.number("after_ms")) + 1)

    def describe(self, items: CatalogueItems) -> SourceData:
        rows, known = rows_of(self._keys, items.keys)
        met = np.zeros(len(items), np.int64)
        met[known] = self._met_ms[rows[known]]
        published = np.where(known | (items.published_ms > 0), items.published_ms, self._lately_ms)
        both = np.minimum(met, published)
        first = np.where((met > 0) & (published > 0), both, np.maximum(met, published))
        return SourceData(columns={"first_ms": first, "met_ms": met})

    def remember(self, items: CatalogueItems, data: SourceData) -> None:
        del items, data  # a history is looked up in the contents


def _recency(first_ms: npt.NDArray[np.int64], after_ms: float, watermark_ms: int) -> Floats:
    """From 0 at `after_ms` to 1 at the watermark; what is dated later is no newer than new."""
    span = max(watermark_ms - after_ms, 1.0)
    return np.clip((first_ms - after_ms) / span, 0, 1).astype(np.float32)
