"""Vectors by item: an artifact's, and over them those of items that came or changed later."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retrieval_svc.rows import Bools, Keys, Rows, rows_of

__all__ = ["ItemVectors"]

Floats = npt.NDArray[np.float32]

_FEWEST = 64  # rows that there is room for at first
_WASTE = 2  # so many times as many rows as items: then the rows of former vectors are let go


class ItemVectors:
    """What a history is looked up in. One thread may add while any number ask."""

    def __init__(self, keys: Keys, vectors: Floats) -> None:
        """`keys` are uint64 [n], strictly ascending, `vectors` float32 [n, d]; may be mapped."""
        self.keys, self.vectors = keys, vectors
        self._later: _Later | None = None

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    def of(self, keys: Keys) -> tuple[Floats, Bools]:
        """float32 [k, d], the vectors of those of `keys` that are known, in their order, and which
        of them are, bool [len(keys)].
        """
        rows, known = rows_of(self.keys, keys)
        later = self._later
        if later is None:
            return np.asarray(self.vectors[rows[known]]), known
        places, changed = rows_of(later.keys, keys)
        vectors = np.zeros((len(keys), self.dim), np.float32)
        old = known & ~changed
        vectors[old] = self.vectors[rows[old]]
        vectors[changed] = later.rows[later.places[places[changed]]]
        return vectors[known | changed], known | changed

    def add(self, keys: Keys, vectors: Floats) -> None:
        """From now on the items `keys` (unique, ascending) have these vectors."""
        later = _Later.none(self.dim) if self._later is None else self._later
        self._later = later.with_rows(keys, vectors)


@dataclass(frozen=True, slots=True)
class _Later:
    """Item `keys[j]` has the vector `rows[places[j]]`. Rows are only ever written behind `used`, so
    whoever holds an earlier value reads on undisturbed."""

    keys: Keys  # uint64 [m], ascending
    places: Rows  # int64 [m]
    rows: Floats  # float32 [room, d]
    used: int

    @staticmethod
    def none(dim: int) -> _Later:
        return _Later(
            np.empty(0, np.uint64), np.empty(0, np.int64), np.empty((_FEWEST, dim), np.float32), 0
        )

    def with_rows(self, keys: Keys, vectors: Floats) -> _Later:
        later = self._with_room(len(keys))
        places = np.arange(later.used, later.used + len(keys))
        later.rows[places] = vectors
        at, known = rows_of(later.keys, keys)
        merged = later.places.copy()
        merged[at[known]] = places[known]
        new = np.searchsorted(later.keys, keys[~known])
        return _Later(
            np.insert(later.keys, new, keys[~known]),
            np.insert(merged, new, places[~known]),
            later.rows,
            later.used + len(keys),
        )

    def _with_room(self, count: int) -> _Later:
        if self.used + count <= len(self.rows):
            return self
        room = max(_FEWEST, _WASTE * (len(self.keys) + count))
        rows = np.empty((room, self.rows.shape[1]), np.float32)
        rows[: len(self.keys)] = self.rows[self.places]
        return _Later(self.keys, np.arange(len(self.keys)), rows, len(self.keys))
