"""A world of users and items whose tastes are known: the one entry to the simulation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from shortlist.errors import InvalidField
from simulator.arrays import Floats, Indices, Mask
from simulator.catalogue import Catalogue, Items, TasteSpace
from simulator.clicks import ClickModel, sigmoid
from simulator.config import WorldConfig
from simulator.exposure import LoggingPolicy
from simulator.log import EventLog, Impressions
from simulator.population import Population, Users, Viewers
from simulator.vocabulary import ItemText, Writer

_SCAN_BLOCK = 50_000
_ID_DIGITS = 6


class UnknownEntity(InvalidField):
    """An index or an id names no item, or no user, of this world."""

    def __init__(self, kind: str, value: object, count: int) -> None:
        super().__init__(kind, f"{value!r} is none of this world's {count:,}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PageFeedback:
    """What a user did with a page; aligned with its items."""

    clicked: Mask
    liked: Mask  # only what was clicked


class World:
    """Answers who would click what, and generates the log of what was clicked.

    Users and items are numbered from 0 in the order of their arrival. Everything about them is a
    function of the configuration and the number, so nothing depends on what was asked before, and
    nothing grows with a large catalogue but the table of its creators.

    Every method that takes indices raises `UnknownEntity` for one that is out of range.
    """

    def __init__(self, config: WorldConfig) -> None:
        space = TasteSpace(config)
        self.config = config
        self._catalogue = Catalogue(config, space)
        self._population = Population(config, space, self._catalogue.creators)
        self._clicks = ClickModel(config.clicks, self._catalogue.creators)
        self._writer = Writer(config.seed)

    def items(self, index: Indices) -> Items:
        """What the items int64[n] are."""
        return self._catalogue.items(_checked("item", index, self.config.items))

    def item_texts(self, index: Indices) -> list[ItemText]:
        """Titles and descriptions of the items int64[n]."""
        items = self.items(index)
        return self._writer.item_texts(
            index,
            creators=items.creator,
            category=items.category,
            second_category=items.second_category,
        )

    def creator_names(self, creators: Indices) -> list[str]:
        """The names of the creators int64[n]."""
        return self._writer.creator_names(_checked_creators(self, creators))

    def creator_countries(self, creators: Indices) -> Indices:
        """int64[n], into `simulator.geography.COUNTRIES`."""
        return self._catalogue.creators.homes.country[_checked_creators(self, creators)]

    def users(self, index: Indices) -> Users:
        """What the users int64[n] are."""
        return self._population.users(_checked("user", index, self.config.users))

    def click_probability(
        self,
        user_indices: int | Indices,
        item_indices: int | Indices,
        time_ms: int | Indices,
        positions: int | Indices = 0,
    ) -> Floats:
        """float64[n]: the probability that each user clicks the item beside it.

        `positions` are those on the page, 0 is the top. Each argument is int64[n], or one number
        that holds for all. The result is zero before an item is published.
        """
        pairs = self._pair(user_indices, item_indices, time_ms)
        appeal = self._clicks.appeal(pairs.viewers, pairs.rows, pairs.items)
        return self._clicks.examination(np.asarray(positions)) * sigmoid(appeal)

    def like_probability(
        self, user_indices: int | Indices, item_indices: int | Indices, time_ms: int | Indices
    ) -> Floats:
        """float64[n]: the probability that each user likes the item beside it, once clicked."""
        pairs = self._pair(user_indices, item_indices, time_ms)
        affinity = self._clicks.affinity(pairs.viewers, pairs.rows, pairs.items)
        return self._clicks.like_probability(affinity, pairs.items.quality)

    def simulate_clicks(
        self, rng: np.random.Generator, user: int, items: Indices, time_ms: int
    ) -> PageFeedback:
        """What the user does with a page of `items` (int64[n], from the top)."""
        places = np.arange(len(items))
        clicked = rng.random(len(items)) < self.click_probability(user, items, time_ms, places)
        liked = rng.random(len(items)) < self.like_probability(user, items, time_ms)
        return PageFeedback(clicked=clicked, liked=clicked & liked)

    def best_items(self, user: int, time_ms: int, k: int) -> Indices:
        """int64[<= k]: the published items that the user would most likely click, best first.

        No recommender can do better on average. Scans the whole catalogue in blocks: about a second
        a million items.
        """
        best, scores = np.empty(0, dtype=np.int64), np.empty(0)
        published = min(self.published_by(time_ms) + 1, self.config.items)
        for start in range(0, published, _SCAN_BLOCK):
            block = np.arange(start, min(start + _SCAN_BLOCK, published))
            best = np.concatenate([best, block])
            scores = np.concatenate([scores, self.click_probability(user, block, time_ms)])
            top = np.argsort(-scores, kind="stable")[:k]
            best, scores = best[top], scores[top]
        return best[scores > 0]

    def published_by(self, time_ms: int) -> int:
        """How many items are out at a time, give or take one: those numbered below this."""
        return int(self._catalogue.published_by(np.array([time_ms]))[0])

    def blocks(self) -> Iterator[Impressions]:
        """The log of the world, in blocks that follow each other in time; always the same."""
        policy = LoggingPolicy(self.config.exposure, self._catalogue, self._clicks)
        return EventLog(self.config, self._population, policy, self._clicks).blocks()

    def item_ids(self, index: Indices) -> list[str]:
        """The outside ids of the items int64[n], such as `item-000123`."""
        return _ids("item", index, self.config.items)

    def user_ids(self, index: Indices) -> list[str]:
        """The outside ids of the users int64[n], such as `user-000042`."""
        return _ids("user", index, self.config.users)

    def item_indices(self, ids: Sequence[str]) -> Indices:
        """int64[n]: the inverse of `item_ids`. Raises `UnknownEntity`."""
        return _indices("item", ids, self.config.items)

    def user_indices(self, ids: Sequence[str]) -> Indices:
        """int64[n]: the inverse of `user_ids`. Raises `UnknownEntity`."""
        return _indices("user", ids, self.config.users)

    def _pair(self, users: int | Indices, items: int | Indices, time_ms: int | Indices) -> _Pairs:
        user, item, time = np.broadcast_arrays(*(np.atleast_1d(a) for a in (users, items, time_ms)))
        moments, rows = np.unique(np.stack([user, time], axis=1), axis=0, return_inverse=True)
        seen_by = _checked("user", moments[:, 0], self.config.users)
        return _Pairs(
            viewers=self._population.viewers(seen_by, moments[:, 1]),
            rows=rows.ravel(),
            items=self.items(item),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pairs:
    """Viewers, and items each seen by the viewer `rows` names."""

    viewers: Viewers
    rows: Indices
    items: Items


def _checked_creators(world: World, creators: Indices) -> Indices:
    return _checked("creator", creators, world.config.creator_count)


def _checked(kind: str, index: Indices, count: int) -> Indices:
    index = np.asarray(index, dtype=np.int64)
    outside = (index < 0) | (index >= count)
    if outside.any():
        raise UnknownEntity(kind, int(index[outside][0]), count)
    return index


def _ids(kind: str, index: Indices, count: int) -> list[str]:
    digits = max(_ID_DIGITS, len(str(count - 1)))
    return [f"{kind}-{i:0{digits}d}" for i in _checked(kind, index, count).tolist()]


def _indices(kind: str, ids: Sequence[str], count: int) -> Indices:
    found = np.empty(len(ids), dtype=np.int64)
    for at, name in enumerate(ids):
        number = name.removeprefix(f"{kind}-")
        if number == name or not (number.isascii() and number.isdigit() and int(number) < count):
            raise UnknownEntity(kind, name, count)
        found[at] = int(number)
    return found
