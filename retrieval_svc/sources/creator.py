"""More from the creators of what the user liked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from retrieval_svc.brute_force import Hits
from retrieval_svc.rows import Keys, Rows, ranges, rows_of
from retrieval_svc.source_data import PostingLists
from retrieval_svc.sources.base import SliceView, SourceQuery
from retrieval_svc.sources.history import Liked, Recency
from shortlist.errors import ArtifactCorrupt
from shortlist.ids import keys_of

__all__ = ["CreatorSource", "Creators", "creators_of"]


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


def creators_of(columns: Mapping[str, Sequence[Any]]) -> tuple[Rows, Keys]:
    """Item rows, ascending, and the keys of their creators, aligned; no pair twice.

    `columns` holds, by creator feature, a name, several, or None a row.
    """
    # The same name in two features is two creators: an author and an actor.
    prefixes = {name: f"{name}:" if len(columns) > 1 else "" for name in columns}
    found = [
        (row, prefixes[name] + one)
        for name, values in columns.items()
        for row, value in enumerate(values)
        for one in (value if isinstance(value, list | tuple) else [value])
        if one
    ]
    rows, keys = np.array([row for row, _ in found], np.int64), keys_of([one for _, one in found])
    order = np.lexsort((keys, rows))
    rows, keys = rows[order], keys[order]
    new = np.ones(len(rows), np.bool_)
    new[1:] = (rows[1:] != rows[:-1]) | (keys[1:] != keys[:-1])
    return rows[new], keys[new]


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
