"""What the ranker knows of items, as columns that requests gather rows from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.errors import ArtifactCorrupt, ArtifactRefused

__all__ = ["Floats", "ItemTable", "Keys", "Rows"]

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemTable:
    """Everything about items, n rows in key order and a last row of zeros for unknown items."""

    keys: npt.NDArray[np.uint64]  # uint64 [n], ascending
    vectors: Floats  # float32 [n + 1, d], unit length; at `learned_rows`
    factors: Floats  # float32 [n + 1, f], unit length or zeros: directions of common taste; alike
    statistics: Floats  # float32 [n + 1, k]: popularity at several speeds, mean value, ...
    published_ms: npt.NDArray[np.int64]  # int64 [n + 1], 0 = unknown
    first_event_ms: npt.NDArray[np.int64]  # int64 [n + 1], 0 = never
    last_event_ms: npt.NDArray[np.int64]  # int64 [n + 1], 0 = never
    tokens: npt.NDArray[np.int32]  # int32 [n + 1, slots]
    token_weights: Floats  # float32 [n + 1, slots]
    numeric: Floats  # float32 [n + 1, m]
    places: Floats  # float32 [n + 1, p, 3], points of the unit sphere, zeros = unknown
    # int32 [n + 1, j], rows of co-occurring items, n = none; at `learned_rows`
    neighbours: npt.NDArray[np.int32]
    affinities: Floats  # float32 [n + 1, j], cosine of co-occurrence, 0 = none; alike
    token_shares: Floats  # float32 [item vocabulary], share of all interactions

    def save(self, folder: Path) -> None:
        self.check()
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name))

    @staticmethod
    def load(folder: Path) -> ItemTable:
        """Maps the files: what is not written to is shared by all processes of a host, and takes
        memory as far as requests touch it. Raises `ArtifactCorrupt` or `ArtifactRefused`.
        """
        table = ItemTable(**{field.name: _load(folder, field.name) for field in fields(ItemTable)})
        table.check()
        return table

    def check(self) -> None:
        """Refuse columns of other lengths and numbers that are not finite."""
        rows = len(self.keys) + 1
        for field in fields(self):
            column = getattr(self, field.name)
            if field.name not in ("keys", "token_shares") and len(column) != rows:
                raise ArtifactCorrupt(f"items/{field.name}.npy has {len(column)} rows, not {rows}")
            if column.dtype == np.float32 and not np.isfinite(column).all():
                raise ArtifactRefused(f"items/{field.name}.npy holds NaN or Inf")
        if self.places.shape[1:] != (self.places.shape[1], 3):
            raise ArtifactCorrupt(f"items/places.npy has shape {self.places.shape}, not (n, p, 3)")

    @property
    def size(self) -> int:
        """Items that have a row of their own."""
        return len(self.keys)

    def statistics_of(self, rows: Rows) -> Floats:
        """float32 [len(rows), k]"""
        return self.statistics.take(rows, axis=0)

    def learned_rows(self, rows: Rows) -> Rows:
        """Rows of what only training writes, for `rows` of all the rest: of items that it did not
        know, the row of unknown ones.
        """
        return np.minimum(rows, len(self.keys))

    def rows_of(self, keys: Keys) -> Rows:
        """Rows of `keys`; `len(self.keys)` for unknown ones."""
        unknown = len(self.keys)
        if unknown == 0:
            return np.zeros(len(keys), np.int64)
        places = np.minimum(np.searchsorted(self.keys, keys), unknown - 1)
        return np.where(self.keys[places] == keys, places, unknown)


def _load(folder: Path, name: str) -> npt.NDArray[Any]:
    try:
        # A plain array: each index into a memmap makes another memmap, which takes longer.
        return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise ArtifactCorrupt(f"items/{name}.npy is unreadable: {error}") from error
