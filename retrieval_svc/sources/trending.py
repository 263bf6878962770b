"""What is liked more now than it used to be."""

from __future__ import annotations

from typing import Self

import numpy as np

from retrieval_svc.brute_force import Hits
from retrieval_svc.sources.base import SliceView, SourceQuery
from retrieval_svc.sources.chart import Chart

__all__ = ["TrendingSource"]


class TrendingSource:
    """Scores are rises of an item's rate; what does not rise is not proposed."""

    name = "trending"

    def __init__(self, chart: Chart) -> None:
        self._chart = chart

    @classmethod
    def open(cls, view: SliceView) -> Self:
        scores = view.column("score", np.float32)
        rising = np.flatnonzero(scores > 0)
        return cls(Chart(scores[rising], rising))

    def propose(self, query: SourceQuery, k: int) -> Hits:
        return self._chart.best(k, query.allowed)
