"""More from the creators of what the user liked."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from retrieval_svc.brute_force import Hits
from retrieval_svc.rows import Keys, ranges, rows_of
from retrieval_svc.source_data import PostingLists
from retrieval_svc.sources.base import SliceView, SourceQuery
from retrieval_svc.sources.history import Liked, Recency
from shortlist.errors import ArtifactCorrupt

__all__ = ["CreatorSource", "Creators"]


class Creators:
    """Who made an item, whichever shard has it."""

    def __init__(self, keys: Keys, starts: npt.NDArray[np.int64], creators: Keys) -> None:
        self._keys = keys  # uint64 [N], ascending
        self._starts = starts  # int64 [N + 1]
        self._creators = creators  # uint64 [c]; of item j those from starts[j] to starts[j + 1]

    @classmethod
    def open(cls, view: SliceView) -> Self:
        keys = view.shared_keys()
        starts, creators = view.array("starts", np.int64), view.array("creators", np.uint64)
        fits = (
            len(starts) == len(keys) + 1
            and starts[0] == 0
            and starts[-1] == len(creators)
            and bool((np.diff(starts) >= 0).all())
        )
        if not fits:
            raise ArtifactCorrupt(f"{view.shared_path('starts')}: does not fit keys and creators")
        return cls(keys, starts, creators)

    def of(self, liked: Liked) -> tuple[Keys, npt.NDArray[np.float64]]:
        """Creators, unique and ascending, each with the shares of the liked items added up."""
        rows, known = rows_of(self._keys, liked.keys)
        first = self._starts[rows[known]]
        sizes = self._starts[rows[known] + 1] - first
        creators = self._creators[ranges(first, sizes)]
        found, which = np.unique(creators, return_inverse=True)
        shares = np.zeros(len(found))
        np.add.at(shares, which, np.repeat(liked.shares[known], sizes))
        return found, shares


class CreatorSource:
    """Scores are what the user thinks of the creators, times what others think of the item."""

    name = "creator"

    def __init__(self, recency: Recency, creators: Creators, items: PostingLists) -> None:
        self._recency = recency
        self._creators = creators
        self._items = items  # from creators to items of this slice

    @classmethod
    def open(cls, view: SliceView) -> Self:
        return cls(Recency.of(view), Creators.open(view), view.lists("items"))

    def propose(self, query: SourceQuery, k: int) -> Hits:
        creators, shares = self._creators.of(self._recency.liked(query.user.history))
        return self._items.best(creators, shares, k, query.allowed)
