"""What the evaluation knows of items: how often, how new, how alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.dataset import Dataset
from training.metrics import self_information
from training.sources.base import NEVER, appeared_ms
from training.windows import Window

__all__ = ["Catalogue"]

Booleans = npt.NDArray[np.bool_]

_HEAD = 0.2  # share of the items
_DAY_MS = 86_400_000


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Columns over all n items, by row of the data set."""

    keys: npt.NDArray[np.uint64]  # [n], ascending
    vectors: npt.NDArray[np.float32]  # [n, dim], unit length: what diversity is measured with
    known: npt.NDArray[np.int64]  # [n], known interactions
    first_ms: npt.NDArray[np.int64]  # [n], when it appeared; 0 = unknown
    as_of_ms: int  # end of what is known; 0 without times

    @staticmethod
    def of(dataset: Dataset, window: Window, vectors: npt.NDArray[np.float32]) -> Catalogue:
        known = np.bincount(dataset.events.item[window.known], minlength=dataset.n_items)
        since = appeared_ms(dataset, window.known)
        return Catalogue(
            keys=dataset.item_keys,
            vectors=vectors,
            known=known.astype(np.int64),
            first_ms=np.where(since == NEVER, 0, since),
            as_of_ms=window.as_of_ms,
        )

    def __len__(self) -> int:
        return len(self.keys)

    def rows_of(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
        """Rows of items that exist."""
        return np.searchsorted(self.keys, keys).astype(np.int32)

    @property
    def cold(self) -> Booleans:
        """Items without any known interaction."""
        return self.known == 0

    @property
    def head(self) -> Booleans:
        """The fifth of the items with the most known interactions; ties: smaller rows."""
        order = np.argsort(-self.known, kind="stable")[: max(1, int(_HEAD * len(self)))]
        mask = np.zeros(len(self), np.bool_)
        mask[order] = True
        return mask & ~self.cold

    @property
    def information(self) -> npt.NDArray[np.float64]:
        """What an item on a list adds to its novelty, in bits."""
        return self_information(self.known)

    @property
    def age_days(self) -> npt.NDArray[np.float64]:
        """At the end of what is known; NaN where the first time is unknown."""
        ages = np.maximum(self.as_of_ms - self.first_ms, 0) / _DAY_MS
        return np.where(self.first_ms > 0, ages, np.nan)
