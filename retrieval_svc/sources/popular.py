"""What everybody likes now: the answer for whom nothing is known of."""

from __future__ import annotations

import numpy as np

from retrieval_svc.brute_force import Floats, Hits
from retrieval_svc.rows import kept
from retrieval_svc.sources.base import SourceQuery

__all__ = ["PopularSource"]


class PopularSource:
    """Scores are popularities; the order is made once, when the version is opened."""

    name = "popular"

    def __init__(self, popularity: Floats) -> None:
        self._order = np.argsort(-popularity, kind="stable")  # int64 [n], most popular first
        self._scores = popularity[self._order]

    def propose(self, query: SourceQuery, k: int) -> Hits:
        rows = self._order[: k + len(query.exclude)]
        places = np.flatnonzero(kept(rows, query.exclude))[:k]
        return rows[places], self._scores[places]
