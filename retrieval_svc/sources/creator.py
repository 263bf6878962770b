"""More from the creators of what the user liked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from retrieval_svc.brute_force import Hits
from retrieval_svc.rows import Keys, Rows, ranges, rows_of
from retrieval_svc.source_data import PostingLists, SourceData
from retrieval_svc.sources.base import CatalogueItems, Describer, SliceView, SourceQuery
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
        self._later: dict[int, Keys] = {}  # of items that came or changed later

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

    def add(self, keys: Keys, rows: Rows, creators: Keys) -> None:
        """From now on item `keys[rows[i]]` has the creator `creators[i]` (`rows` ascend), and those
        it was said to have no longer. One thread may add while any number ask.
        """
        starts = np.searchsorted(rows, np.arange(len(keys) + 1))
        self._later.update(
            (key, creators[starts[row] : starts[row + 1]]) for row, key in enumerate(keys.tolist())
        )

    def of(self, liked: Liked) -> tuple[Keys, npt.NDArray[np.float64]]:
        """Creators, unique and ascending, each with the shares of the liked items added up."""
        rows, known = rows_of(self._keys, liked.keys)
        later = {}
        if self._later:
            later = {
                place: self._later[key]
                for place, key in enumerate(liked.keys.tolist())
                if key in self._later
            }
            known[list(later)] = False
        first = self._starts[rows[known]]
        sizes = self._starts[rows[known] + 1] - first
        creators = [self._creators[ranges(first, sizes)], *later.values()]
        places = [np.repeat(np.flatnonzero(known), sizes)]
        places += [np.full(len(mine), place) for place, mine in later.items()]
        found, which = np.unique(np.concatenate(creators), return_inverse=True)
        shares = np.zeros(len(found))
        np.add.at(shares, which, liked.shares[np.concatenate(places)])
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

    def over(self, view: SliceView) -> Self:
        return type(self)(self._recency, self._creators, view.lists("items"))

    def describer(self, view: SliceView) -> Describer:
        return _CreatorDescriber(view, self._creators)

    def propose(self, query: SourceQuery, k: int) -> Hits:
        creators, shares = query.once(
            "creator/creators", lambda: self._creators.of(self._recency.liked(query.user.history))
        )
        return self._items.best(creators, shares, k, query.allowed)


class _CreatorDescriber:
    """Items on the lists of their creators."""

    def __init__(self, view: SliceView, creators: Creators) -> None:
        self._keys = view.keys
        # float32 [n], what others think of an item; of one that is new, or old and not told, 1.
        self._worth = view.data.columns.get("worth", np.ones(len(view.keys), np.float32))
        self._creators = creators
        self._features = view.texts("features") if "features" in view.shared.settings else ()

    def describe(self, items: CatalogueItems) -> SourceData:
        rows, known = rows_of(self._keys, items.keys)
        worth = np.ones(len(items), np.float32)
        worth[known] = self._worth[rows[known]]
        mine, creators = self._made_by(items)
        lists = PostingLists.of(creators, mine.astype(np.int32), worth[mine])
        return SourceData(columns={"worth": worth}, lists={"items": lists})

    def remember(self, items: CatalogueItems, data: SourceData) -> None:
        del data  # an item without creators is not in it
        self._creators.add(items.keys, *self._made_by(items))

    def _made_by(self, items: CatalogueItems) -> tuple[Rows, Keys]:
        nobody: list[None] = [None] * len(items)
        return creators_of({name: items.columns.get(name, nobody) for name in self._features})
