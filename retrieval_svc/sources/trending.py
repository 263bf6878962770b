"""What is liked more now than it used to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from retrieval_svc.brute_force import Hits
from retrieval_svc.source_data import SharedData, SourceData
from retrieval_svc.sources.base import SliceView, SourceQuery
from retrieval_svc.sources.counters import NEVER, EventCounters, TrendRule
from retrieval_svc.sources.observed import Learned, ObservedEvents
from shortlist.live import CatalogItem

__all__ = ["TrendingSource"]


class TrendingSource:
    """Scores are rises of an item's rate; what does not rise is not proposed."""

    name = "trending"

    def __init__(self, counters: EventCounters, shared: SharedData) -> None:
        self._counters, self._shared = counters, shared

    @classmethod
    def open(cls, view: SliceView) -> Self:
        columns = {
            "recent": view.column("recent", np.float64),
            "past": view.column("past", np.float64),
            "since_ms": view.column("since_ms", np.int64),
        }
        rule = TrendRule(
            recent_ms=view.number("recent_half_life_ms"),
            past_ms=view.number("past_half_life_ms"),
            begin_ms=int(view.number("begin_ms")),
            usual=view.number("usual_weight"),
            rate_of_all=view.number("rate_of_all"),
        )
        as_of_ms = int(view.number("as_of_ms"))
        return cls(EventCounters.of(rule, columns, as_of_ms, above=0), view.shared)

    def propose(self, query: SourceQuery, k: int) -> Hits:
        return self._counters.chart.best(k, query.allowed)

    def observing(self, events: ObservedEvents) -> Self:
        return type(self)(self._counters.observing(events), self._shared)

    def learned(self) -> Learned:
        return self._counters.learned(self._shared)

    @staticmethod
    def new_items(shared: SharedData, items: Sequence[CatalogItem]) -> SourceData:
        del shared  # nothing is expected of an item but what is of all
        n = len(items)
        published = [item.published_ms or NEVER for item in items]
        return SourceData(
            columns={
                "recent": np.zeros(n),
                "past": np.zeros(n),
                "since_ms": np.array(published, np.int64),
            }
        )
