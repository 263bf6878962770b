"""An order of items that is the same for everybody."""

from __future__ import annotations

import numpy as np

from retrieval_svc.brute_force import Floats, Hits
from retrieval_svc.rows import NO_ROWS, Allowed, Rows

__all__ = ["Chart"]

_GROWTH = 4


class Chart:
    """Rows by descending score; the order is made once, when the version is opened."""

    def __init__(self, scores: Floats, rows: Rows | None = None) -> None:
        """`scores` are float32 [m] of `rows`, int64 [m] ascending; default: all rows."""
        order = np.argsort(-scores, kind="stable")
        self._rows = order if rows is None else rows[order]
        self._scores = scores[order]

    def best(self, k: int, allowed: Allowed) -> Hits:
        """The first `k` rows that are allowed."""
        places = self._first(k, allowed)
        return self._rows[places], self._scores[places]

    def _first(self, k: int, allowed: Allowed) -> Rows:
        """int64 [k or all there are]: down the order in growing steps until `k` are found.

        A mask that lets few rows through is so looked up for few more rows than needed, and in a
        few steps even when all of them are at the end.
        """
        found: list[Rows] = []
        at, step, missing = 0, k + len(allowed.exclude), k
        while missing > 0 and at < len(self._rows):
            places = at + np.flatnonzero(allowed.keep(self._rows[at : at + step]))[:missing]
            found.append(places)
            missing -= len(places)
            at, step = at + step, step * _GROWTH
        return np.concatenate(found) if found else NO_ROWS
