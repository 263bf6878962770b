"""What everybody likes now: the answer for whom nothing is known of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from retrieval_svc.brute_force import Hits
from retrieval_svc.rows import Keys, rows_of
from retrieval_svc.source_data import SharedData, SourceData
from retrieval_svc.sources.base import SliceView, SourceQuery
from retrieval_svc.sources.counters import NEVER, EventCounters, PopularityRule
from retrieval_svc.sources.observed import Learned, ObservedEvents
from shortlist.ids import keys_of
from shortlist.live import CatalogItem

__all__ = ["PopularSource", "group_keys"]


class PopularSource:
    """Scores are rates of the whole catalogue, smoothed and decayed; every item has one."""

    name = "popular"

    def __init__(self, counters: EventCounters, shared: SharedData) -> None:
        self._counters, self._shared = counters, shared

    @classmethod
    def open(cls, view: SliceView) -> Self:
        columns = {
            "count": view.column("count", np.float64),
            "always": view.column("always", np.float64),
            "since_ms": view.column("since_ms", np.int64),
            "prior": view.column("prior", np.float64),
        }
        rule = PopularityRule(
            half_life_ms=view.optional_number("half_life_ms"),
            begin_ms=int(view.number("begin_ms")),
            trust=view.number("trust"),
        )
        as_of_ms = int(view.number("as_of_ms"))
        return cls(EventCounters.of(rule, columns, as_of_ms), view.shared)

    def propose(self, query: SourceQuery, k: int) -> Hits:
        return self._counters.chart.best(k, query.allowed)

    def observing(self, events: ObservedEvents) -> Self:
        return type(self)(self._counters.observing(events), self._shared)

    def learned(self) -> Learned:
        return self._counters.learned(self._shared)

    @staticmethod
    def new_items(shared: SharedData, items: Sequence[CatalogItem]) -> SourceData:
        """Nobody has liked them yet; what to expect of them, their creators and categories say."""
        n = len(items)
        published = [item.published_ms or NEVER for item in items]
        return SourceData(
            columns={
                "count": np.zeros(n),
                "always": np.zeros(n),
                "since_ms": np.array(published, np.int64),
                "prior": _expected(shared, items),
            }
        )


def group_keys(feature: str, values: Iterable[Any]) -> Keys:
    """uint64: the groups of items with each value of a feature."""
    return keys_of(f"{feature}\n{value}" for value in values)


def _expected(shared: SharedData, items: Sequence[CatalogItem]) -> npt.NDArray[np.float64]:
    """The mean rate of the item's groups by the last feature that it has; else that of all."""
    mean = float(shared.settings["mean_rate"])
    expected = np.full(len(items), mean)
    known, rates = shared.arrays["groups"], shared.arrays["rates"]
    for row, item in enumerate(items):
        for feature in shared.settings["prior_features"]:  # those that say most come last
            if values := _values(item, feature):
                groups, found = rows_of(known, group_keys(feature, values))
                of_known = rates[groups[found]].sum()
                expected[row] = (of_known + mean * np.count_nonzero(~found)) / len(values)
    return expected


def _values(item: CatalogItem, feature: str) -> list[str]:
    value = item.attributes.get(feature)
    if value is None:
        return []
    return [str(one) for one in (value if isinstance(value, tuple) else (value,)) if one]
