"""From item keys to row numbers of a slice, and which of the rows a query may have."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

__all__ = [
    "EVERY_ROW",
    "NO_ROWS",
    "Allowed",
    "Bools",
    "Keys",
    "RowMask",
    "Rows",
    "kept",
    "places_of",
    "ranges",
    "rows_of",
]

Keys = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NO_ROWS: Rows = np.empty(0, np.int64)
NO_ROWS.flags.writeable = False


def rows_of(owned: Keys, wanted: Keys) -> tuple[Rows, npt.NDArray[np.bool_]]:
    """Where the keys of `wanted` stand in `owned`.

    Args:
        owned: uint64 [n], strictly ascending.
        wanted: uint64 [w], any order.

    Returns:
        int64 [w], the row of each key (0 where it is unknown), and bool [w], whether it is known.
    """
    if len(owned) == 0:
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.bool_)
    rows = np.minimum(np.searchsorted(owned, wanted), len(owned) - 1)
    known = owned[rows] == wanted
    return np.where(known, rows, 0).astype(np.int64, copy=False), known


def kept(rows: Rows, exclude: Rows) -> npt.NDArray[np.bool_]:
    """bool [len(rows)]: which of `rows` are not among `exclude` (int64, ascending)."""
    if len(exclude) == 0:
        return np.ones(len(rows), np.bool_)
    places = np.minimum(np.searchsorted(exclude, rows), len(exclude) - 1)
    return exclude[places] != rows


def places_of(rows: Rows, wanted: Rows) -> Rows:
    """int64: where those of `wanted` that are among `rows` stand there. Both ascend strictly."""
    if len(rows) == 0:
        return NO_ROWS
    places = np.minimum(np.searchsorted(rows, wanted), len(rows) - 1)
    return places[rows[places] == wanted]


def ranges(first: Rows, sizes: Rows) -> Rows:
    """int64 [sum of sizes]: `first[j]` and the numbers after it, `sizes[j]` of them, for each j."""
    before = np.cumsum(sizes) - sizes
    return np.repeat(first - before, sizes) + np.arange(int(sizes.sum()))


class RowMask:
    """Which of n rows pass. Immutable and compared by identity, so what follows from it is computed
    once however many queries share it; any thread may ask."""

    def __init__(self, passes: Bools) -> None:
        """`passes` is bool [n]; the caller hands it over and writes no more."""
        self.passes = passes
        self._with: WeakKeyDictionary[RowMask, RowMask] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self.passes)

    @cached_property
    def count(self) -> int:
        """How many pass."""
        return int(np.count_nonzero(self.passes))

    @cached_property
    def rows(self) -> Rows:
        """int64 [count], ascending: those that pass."""
        return np.flatnonzero(self.passes)

    def both(self, other: RowMask) -> RowMask:
        """Those that pass here and there; remembered as long as `other` is in use."""
        found = self._with.get(other)
        if found is None:
            found = self._with[other] = RowMask(self.passes & other.passes)
        return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Allowed:
    """The rows of a slice that a query may have: those of a mask, without a few of its own.

    A mask is what many queries share (a filter, items that are gone) and costs a bit of a look for
    each row; `exclude` is one query's (what its user has seen) and costs by its own length.
    """

    exclude: Rows = field(default_factory=lambda: NO_ROWS)  # int64 [e], ascending, unique
    mask: RowMask | None = None  # of all n rows; None = all pass

    @property
    def everything(self) -> bool:
        return self.mask is None and len(self.exclude) == 0

    def where(self, mask: RowMask | None) -> Allowed:
        """Those of them that pass `mask`, too."""
        if mask is None or self.mask is None:
            return Allowed(exclude=self.exclude, mask=self.mask if mask is None else mask)
        return Allowed(exclude=self.exclude, mask=self.mask.both(mask))

    def keep(self, rows: Rows) -> Bools:
        """bool [len(rows)]: which of `rows`, in any order, are allowed."""
        if self.mask is None:
            return kept(rows, self.exclude)
        keep = self.mask.passes[rows]
        places = np.flatnonzero(keep)
        keep[places] = kept(rows[places], self.exclude)
        return keep

    def keep_ascending(self, rows: Rows) -> Bools:
        """`keep` of rows that ascend strictly: faster where they are more than are excluded."""
        keep = np.ones(len(rows), np.bool_) if self.mask is None else self.mask.passes[rows]
        keep[places_of(rows, self.exclude)] = False
        return keep

    def count(self, n: int) -> int:
        """How many of the n rows are allowed."""
        if self.mask is None:
            return n - len(self.exclude)
        return self.mask.count - int(np.count_nonzero(self.mask.passes[self.exclude]))

    def rows(self, n: int) -> Rows:
        """int64 [count], ascending: all of the n rows that are allowed."""
        rows = np.arange(n) if self.mask is None else self.mask.rows
        closed = places_of(rows, self.exclude)
        return np.delete(rows, closed) if len(closed) else rows


EVERY_ROW = Allowed()
