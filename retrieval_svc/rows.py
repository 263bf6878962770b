"""From item keys to row numbers of a slice, and away with the rows that a query excludes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["NO_ROWS", "Keys", "Rows", "kept", "places_of", "ranges", "rows_of"]

Keys = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]

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
