"""What everybody likes now: the answer for whom nothing is known of."""

from __future__ import annotations

from typing import Self

import numpy as np

from retrieval_svc.brute_force import Hits
from retrieval_svc.sources.base import SliceView, SourceQuery
from retrieval_svc.sources.chart import Chart

__all__ = ["PopularSource"]


class PopularSource:
    """Scores are rates of the whole catalogue, smoothed and decayed; every item has one."""

    name = "popular"

    def __init__(self, chart: Chart) -> None:
        self._chart = chart

    @classmethod
    def open(cls, view: SliceView) -> Self:
        return cls(Chart(view.column("score", np.float32)))

    def propose(self, query: SourceQuery, k: int) -> Hits:
        return self._chart.best(k, query.allowed)
