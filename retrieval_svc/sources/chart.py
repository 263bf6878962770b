"""An order of items that is the same for everybody."""

from __future__ import annotations

import numpy as np

from retrieval_svc.brute_force import Floats, Hits
from retrieval_svc.rows import Rows, kept

__all__ = ["Chart"]


class Chart:
    """Rows by descending score; the order is made once, when the version is opened."""

    def __init__(self, scores: Floats, rows: Rows | None = None) -> None:
        """`scores` are float32 [m] of `rows`, int64 [m] ascending; default: all rows."""
        order = np.argsort(-scores, kind="stable")
        self._rows = order if rows is None else rows[order]
        self._scores = scores[order]

    def best(self, k: int, exclude: Rows) -> Hits:
        """The first `k` rows that are not in `exclude`, which is ascending."""
        rows = self._rows[: k + len(exclude)]
        places = np.flatnonzero(kept(rows, exclude))[:k]
        return rows[places], self._scores[places]
