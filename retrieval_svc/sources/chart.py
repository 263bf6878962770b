"""An order of items that is the same for everybody."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from retrieval_svc.brute_force import Floats, Hits
from retrieval_svc.rows import NO_ROWS, Allowed, Rows

__all__ = ["Chart", "OverlaidChart"]

Bools = npt.NDArray[np.bool_]

_GROWTH = 4


class Chart:
    """Rows by descending score; the order is made once."""

    def __init__(self, scores: Floats, rows: Rows | None = None) -> None:
        """`scores` are float32 [m] of `rows`, int64 [m] ascending; default: all rows."""
        order = np.argsort(-scores, kind="stable")
        self._rows = order if rows is None else rows[order]
        self._scores = scores[order]

    def best(self, k: int, allowed: Allowed, stale: Bools | None = None) -> Hits:
        """The first `k` rows that are allowed and not `stale`, bool by row."""
        places = self._first(k, allowed, stale)
        return self._rows[places], self._scores[places]

    def _first(self, k: int, allowed: Allowed, stale: Bools | None) -> Rows:
        """int64 [k or all there are]: down the order in growing steps until `k` are found.

        A mask that lets few rows through is so looked up for few more rows than needed, and in a
        few steps even when all of them are at the end.
        """
        found: list[Rows] = []
        at, step, missing = 0, k + len(allowed.exclude), k
        while missing > 0 and at < len(self._rows):
            rows = self._rows[at : at + step]
            keep = allowed.keep(rows) if stale is None else allowed.keep(rows) & ~stale[rows]
            places = at + np.flatnonzero(keep)[:missing]
            found.append(places)
            missing -= len(places)
            at, step = at + step, step * _GROWTH
        return np.concatenate(found) if found else NO_ROWS


class OverlaidChart:
    """A chart of which a few rows have got other scores since its order was made."""

    def __init__(self, whole: Chart, stale: Bools, changed: Chart) -> None:
        """`stale`, bool [n], are the rows that `changed` tells of in place of `whole`."""
        self._whole, self._stale, self._changed = whole, stale, changed

    @property
    def whole(self) -> Chart:
        return self._whole

    @property
    def stale(self) -> Bools:
        return self._stale

    def best(self, k: int, allowed: Allowed) -> Hits:
        """The first `k` rows that are allowed."""
        rows, scores = self._whole.best(k, allowed, self._stale)
        others, theirs = self._changed.best(k, allowed)
        rows, scores = np.concatenate([rows, others]), np.concatenate([scores, theirs])
        order = np.lexsort((rows, -scores))[:k]
        return rows[order], scores[order]
