"""What is liked, or is, where the user is.

The share of an item among the likes of a place is smoothed towards its share among all likes, so a
place with a few likes follows everybody, and one with many has a taste of its own. Likes fade; all
are counted as of one moment, and shares are made of the counts when somebody asks, so that an event
changes the counts of its item and its places and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Self

import numpy as np
import numpy.typing as npt

from retrieval_svc.brute_force import Floats, Hits, best
from retrieval_svc.overlaid import OverlaidColumns
from retrieval_svc.rows import Keys, Rows, rows_of
from retrieval_svc.source_data import PostingLists, SharedData, SourceData, sums_by_row
from retrieval_svc.sources.base import NO_HITS, SliceView, SourceQuery
from retrieval_svc.sources.counters import fading
from retrieval_svc.sources.observed import Learned, ObservedEvents
from shortlist.ids import key_of
from shortlist.live import CatalogItem
from shortlist.places import coordinates_of, place_keys, place_names
from shortlist.tiers import AttributeValue

__all__ = ["PRIOR", "GeographicSource", "PlaceCounts", "likely"]

PRIOR = 50.0  # likes that the shares of everybody count for in a place
# What a cell of the grid counts beside the next finer one around the same point.
_COARSER = 0.5
# Counts are as of a moment at most so many half-lives ago, so that float32 holds them.
_STEP = 8.0
_HOT = 4096  # pairs of place and item that are merged with each batch of events
_APART = 4096  # items with newer counts before all are copied

Doubles = npt.NDArray[np.float64]


def _no_lists() -> PostingLists:
    return PostingLists.of(np.empty(0, np.uint64), np.empty(0, np.int32), np.empty(0, np.float32))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceCounts:
    """Fading likes, in likes of the usual weight, as of one moment. A snapshot."""

    as_of_ms: int
    newest_ms: int  # event: shares are as of then
    half_life_ms: float | None  # None = nothing fades
    usual: float  # weight of a like
    total: float  # likes of everything
    places: Keys  # uint64 [p], ascending
    likes: Doubles  # float64 [p], of everything in the place
    located: Doubles  # float64 [p], sum of `likely` of all that is there; 0 = nothing was
    items: OverlaidColumns  # `likes` float64 [n], everywhere
    trained: PostingLists  # likes by place and item
    warm: PostingLists = field(default_factory=_no_lists)  # and those observed since: the old
    hot: PostingLists = field(default_factory=_no_lists)  # and the new

    def of_place(self, place: int) -> tuple[Rows, Doubles]:
        """Rows liked there, int64 [m] ascending, and their smoothed shares, float64 [m]."""
        parts = [_list_of(lists, place) for lists in (self.trained, self.warm, self.hot)]
        rows, counts = _added_up([part for part in parts if len(part[0])])
        shares = self.items.take(rows)["likes"] / max(self.total, 1e-12)
        faded = 0.5**self._age
        here = faded * self._at(place, self.likes)
        return rows, (faded * counts + PRIOR * shares) / (here + PRIOR)

    def among_located(self, place: int, rows: Rows, floor: float) -> Doubles:
        """float64 [m]: of items that are there, the share among the likes of all that is."""
        shares = self.items.take(rows)["likes"] / max(self.total, 1e-12)
        mine = likely(shares, floor)
        all_there = self._at(place, self.located)
        return np.minimum(mine / np.maximum(all_there, mine), 1)

    def observing(self, events: ObservedEvents) -> PlaceCounts:
        """With the likes among `events` counted."""
        now = self._later(events.newest_ms)
        liked = np.flatnonzero(events.weights > 0)
        if len(liked) == 0:
            return now
        weights = events.weights[liked].astype(np.float64) / self.usual
        amounts = fading(weights, events.times_ms[liked], now.as_of_ms, self.half_life_ms)
        return now._counting(
            events.rows[liked], amounts, [events.places[at] for at in liked.tolist()]
        )

    def lists(self) -> PostingLists:
        """All likes by place and item."""
        return _merged(self.trained, self.warm, self.hot)

    @property
    def _age(self) -> float:
        """Half-lives that have passed since the moment of the counts."""
        if self.half_life_ms is None:
            return 0.0
        return max(self.newest_ms - self.as_of_ms, 0) / self.half_life_ms

    def _at(self, place: int, column: Doubles) -> float:
        at, known = rows_of(self.places, np.array([place], np.uint64))
        return float(column[at[0]]) if known[0] else 0.0

    def _later(self, newest_ms: int) -> PlaceCounts:
        newest = max(newest_ms, self.newest_ms)
        if self.half_life_ms is None:
            return self
        step = _STEP * self.half_life_ms
        moment = int(newest // step * step)
        if moment <= self.as_of_ms:
            return replace(self, newest_ms=newest)
        faded = 0.5 ** ((moment - self.as_of_ms) / self.half_life_ms)
        return replace(
            self,
            as_of_ms=moment,
            newest_ms=newest,
            total=self.total * faded,
            likes=self.likes * faded,
            items=OverlaidColumns(whole={"likes": self.items.folded().whole["likes"] * faded}),
            trained=_scaled(self.trained, faded),
            warm=_scaled(self.warm, faded),
            hot=_scaled(self.hot, faded),
        )

    def _counting(
        self, rows: Rows, amounts: Doubles, places: Sequence[tuple[int, ...]]
    ) -> PlaceCounts:
        """With likes of items (-1 = of another slice) that happened in places."""
        sizes = np.array([len(each) for each in places], np.int64)
        terms = np.fromiter(chain.from_iterable(places), np.uint64, int(sizes.sum()))
        there, weights = np.repeat(rows, sizes), np.repeat(amounts, sizes)
        own = there >= 0
        new = _summed(terms[own], there[own], weights[own])
        hot, warm = _merged(self.hot, new), self.warm
        if len(hot.rows) > _HOT:
            hot, warm = _no_lists(), _merged(warm, hot)
        named, likes, located = self._places_with(terms, weights)
        return replace(
            self,
            total=self.total + float(amounts.sum()),
            places=named,
            likes=likes,
            located=located,
            items=self._items_with(rows, amounts),
            warm=warm,
            hot=hot,
        )

    def _places_with(self, terms: Keys, weights: Doubles) -> tuple[Keys, Doubles, Doubles]:
        places = np.union1d(self.places, terms)
        likes, located = np.zeros(len(places)), np.zeros(len(places))
        known = np.searchsorted(places, self.places)
        likes[known], located[known] = self.likes, self.located
        np.add.at(likes, np.searchsorted(places, terms), weights)
        return places, likes, located

    def _items_with(self, rows: Rows, amounts: Doubles) -> OverlaidColumns:
        own = rows >= 0
        touched, which = np.unique(rows[own], return_inverse=True)
        before = self.items.take(touched)["likes"]
        likes = before + np.bincount(which, weights=amounts[own], minlength=len(touched))
        items = self.items.replaced(touched, {"likes": likes})
        return items.folded() if len(items.rows) > _APART else items


class GeographicSource:
    """Scores are an item's shares of what happens in the user's places, added up."""

    name = "geographic"

    def __init__(
        self,
        features: Sequence[str],
        counts: PlaceCounts,
        located: PostingLists,
        shared: SharedData,
    ) -> None:
        """`located` are items by the places where they are; its weights say nothing."""
        self._features = tuple(features)  # geo features of users and contexts
        self._counts, self._located, self._shared = counts, located, shared
        self._floor = float(shared.settings["floor"])

    @classmethod
    def open(cls, view: SliceView) -> Self:
        view.number("floor")
        as_of_ms = int(view.number("as_of_ms"))
        counts = PlaceCounts(
            as_of_ms=as_of_ms,
            newest_ms=int(view.number("newest_ms")),
            half_life_ms=view.optional_number("half_life_ms"),
            usual=view.number("usual_weight"),
            total=view.number("likes"),
            places=view.array("places", np.uint64),
            likes=view.array("likes", np.float64),
            located=view.array("located", np.float64),
            items=OverlaidColumns(whole={"likes": view.column("likes", np.float64)}),
            trained=view.lists("liked"),
        )
        return cls(view.texts("features"), counts, view.lists("located"), view.shared)

    def propose(self, query: SourceQuery, k: int) -> Hits:
        places = _places({**query.user.attributes, **query.user.context}, self._features)
        parts = [part for key in sorted(places) for part in self._found_in(key, places[key])]
        if not parts:
            return NO_HITS
        found, amounts = (np.concatenate(column) for column in zip(*parts, strict=True))
        rows, sums = sums_by_row(found, amounts)
        if not query.allowed.everything:
            keep = query.allowed.keep_ascending(rows)
            rows, sums = rows[keep], sums[keep]
        top = best(sums, min(k, len(sums)))
        return rows[top], sums[top]

    def observing(self, events: ObservedEvents) -> Self:
        counts = self._counts.observing(events)
        return type(self)(self._features, counts, self._located, self._shared)

    def learned(self) -> Learned:
        counts = self._counts

        def gather() -> SourceData:
            return SourceData(
                columns=counts.items.folded().whole,
                lists={"liked": counts.lists(), "located": self._located},
            )

        settings = {
            **self._shared.settings,
            "as_of_ms": counts.as_of_ms,
            "newest_ms": counts.newest_ms,
            "likes": counts.total,
        }
        arrays = {"places": counts.places, "likes": counts.likes, "located": counts.located}
        return Learned(shared=SharedData(arrays=arrays, settings=settings), gather=gather)

    @staticmethod
    def new_items(shared: SharedData, items: Sequence[CatalogItem]) -> SourceData:
        """Nobody has liked them yet, but they may be somewhere."""
        features = shared.settings["item_features"]
        keys = [place_keys(item.attributes, features) for item in items]
        rows = np.repeat(np.arange(len(items), dtype=np.int32), [len(each) for each in keys])
        terms = np.concatenate([np.empty(0, np.uint64), *keys])
        located = PostingLists.of(terms, rows, np.ones(len(rows), np.float32))
        return SourceData(
            columns={"likes": np.zeros(len(items))},
            lists={"liked": _no_lists(), "located": located},
        )

    def _found_in(self, place: int, strength: float) -> list[tuple[Rows, Doubles]]:
        """Rows and what they get for a place: for being liked there, and for being there."""
        liked, shares = self._counts.of_place(place)
        there, _ = _list_of(self._located, place)
        likely_there = self._counts.among_located(place, there, self._floor)
        return [(liked, strength * shares), (there, strength * likely_there)]


def likely(shares: Doubles, floor: float) -> Doubles:
    """What items are to be expected to get of all likes: nobody has liked some of them yet."""
    return shares + floor


def _places(about: Mapping[str, AttributeValue], features: Sequence[str]) -> dict[int, float]:
    """Keys of places, and how much each counts: of coordinates the finest cell most."""
    strengths: dict[int, float] = {}
    for value in (about[feature] for feature in features if feature in about):
        decay = _COARSER if coordinates_of(value) else 1.0
        for level, name in enumerate(place_names(value)):
            key = key_of(name)
            strengths[key] = max(strengths.get(key, 0.0), decay**level)
    return strengths


def _list_of(lists: PostingLists, term: int) -> tuple[Rows, Floats]:
    """Rows, int64 ascending, and weights of one list."""
    at, known = rows_of(lists.terms, np.array([term], np.uint64))
    if not known[0]:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    piece = slice(lists.starts[at[0]], lists.starts[at[0] + 1])
    return lists.rows[piece].astype(np.int64), lists.weights[piece]


def _added_up(parts: Sequence[tuple[Rows, Floats]]) -> tuple[Rows, Doubles]:
    """Rows of any of the parts, ascending, and their sums."""
    if not parts:
        return np.empty(0, np.int64), np.empty(0)
    if len(parts) == 1:
        return parts[0][0], parts[0][1].astype(np.float64)
    rows, which = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    weights = np.concatenate([part[1] for part in parts])
    sums = np.bincount(which, weights=weights, minlength=len(rows))
    return rows, sums.astype(np.float64)


def _merged(*lists: PostingLists) -> PostingLists:
    """One list a term, with the sum of the weights of each row."""
    some = [one for one in lists if len(one.rows)]
    if len(some) == 1:
        return some[0]
    return _summed(
        np.concatenate([np.empty(0, np.uint64), *(one.all_terms for one in some)]),
        np.concatenate([np.empty(0, np.int64), *(one.rows for one in some)]),
        np.concatenate([np.empty(0), *(one.weights for one in some)]),
    )


def _summed(terms: Keys, rows: Rows, weights: Doubles) -> PostingLists:
    """From postings in any order, of which several may be of one row."""
    if len(terms) == 0:
        return _no_lists()
    order = np.lexsort((rows, terms))
    terms, rows = terms[order], rows[order]
    new = np.append(True, (terms[1:] != terms[:-1]) | (rows[1:] != rows[:-1]))
    sums = np.add.reduceat(weights[order], np.flatnonzero(new))
    return PostingLists.of(terms[new], rows[new].astype(np.int32), sums.astype(np.float32))


def _scaled(lists: PostingLists, by: float) -> PostingLists:
    return replace(lists, weights=(lists.weights * np.float32(by)).astype(np.float32))
