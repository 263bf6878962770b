"""Columns of many rows of which few change at a time, as snapshots that never change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval_svc.rows import NO_ROWS, Rows, places_of

__all__ = ["Columns", "OverlaidColumns"]

Array = npt.NDArray[Any]
Columns = Mapping[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlaidColumns:
    """n rows; those that changed stand apart, so that a change costs no copy of all."""

    whole: Columns  # [n] each
    rows: Rows = field(default_factory=lambda: NO_ROWS)  # int64 [c], ascending: those that changed
    changed: Columns = field(default_factory=dict)  # [c] each, aligned with `rows`

    def __len__(self) -> int:
        return len(next(iter(self.whole.values())))

    def take(self, rows: Rows) -> dict[str, Array]:
        """The columns at `rows`, in any order."""
        taken = {name: column[rows] for name, column in self.whole.items()}
        if len(self.rows):
            places = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
            newer = self.rows[places] == rows
            for name, column in self.changed.items():
                taken[name][newer] = column[places[newer]]
        return taken

    def replaced(self, rows: Rows, values: Columns) -> OverlaidColumns:
        """With other values at `rows`, which ascend strictly."""
        stay = np.ones(len(self.rows), np.bool_)
        stay[places_of(self.rows, rows)] = False
        kept = self.rows[stay]
        places = np.searchsorted(kept, rows)
        empty = {name: column[:0] for name, column in self.whole.items()}
        return OverlaidColumns(
            whole=self.whole,
            rows=np.insert(kept, places, rows),
            changed={
                name: np.insert(self.changed.get(name, empty[name])[stay], places, values[name])
                for name in self.whole
            },
        )

    def folded(self) -> OverlaidColumns:
        """The same, with nothing apart; copies all rows unless nothing has changed."""
        if len(self.rows) == 0:
            return self
        whole = {name: column.copy() for name, column in self.whole.items()}
        for name, column in whole.items():
            column[self.rows] = self.changed[name]
        return OverlaidColumns(whole=whole)
