"""The items of a world and their creators, as functions of the seed and an index."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from simulator.arrays import Floats, Indices, Vectors
from simulator.config import MS_PER_DAY, WorldConfig
from simulator.counters import RandomField, unit_rows, weighted_choice
from simulator.geography import Homes, draw_homes
from simulator.ranking import IndexPermutation, ZipfRanking

# Up to this many items all traits are kept (20 MB at 16 dims); above, they are computed when asked.
RESIDENT_ITEMS = 200_000

_CATEGORY_EXPONENT = 0.5  # of the Zipf law over categories
_HOME_CATEGORY_SHARE = 0.75  # of a creator's items
_SECOND_CATEGORY_SHARE = 0.35  # of all items
_FIRST_CATEGORY_WEIGHT = 0.7  # in the taste of an item with two categories
_CREATOR_SPREAD = 0.55  # length of a creator's offset beside a category's unit vector
_ITEM_SPREAD = 0.45  # length of an item's own offset
_CREATOR_SIZE_EXPONENT = 0.6
_CREATOR_SIZE_HEAD = 0.02
_POPULARITY_HEAD = 0.002
_MEAN_AGE_DAYS = 300.0  # at the start, of the items published before it
_OLDEST_DAYS = 3_650.0


class TasteSpace:
    """The categories' unit vectors, which items and users both mix."""

    def __init__(self, config: WorldConfig) -> None:
        numbers = np.arange(config.categories, dtype=np.int64)
        field = RandomField(config.seed, "category vector")
        self.categories = unit_rows(field.vectors(numbers, config.dims))  # [categories, dims]
        self.category_weights = np.power(numbers + 1.0, -_CATEGORY_EXPONENT, dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Creators:
    """All creators of a world. They are kept: there are far fewer than items."""

    homes: Homes
    on_sphere: Floats  # [creators, 3]
    category: Indices  # [creators]: what a creator mostly makes
    second_category: Indices  # [creators]
    offset: Vectors  # [creators, dims]: what is common to all items of a creator
    taste: Vectors  # [creators, dims]: unit vectors, the centre of a creator's items
    first_position: Indices  # [creators + 1]: where each creator's items begin


@dataclass(frozen=True, kw_only=True, slots=True)
class Items:
    """What the simulation needs to know about some items; arrays are aligned."""

    taste: Vectors  # [n, dims], unit vectors
    quality: Floats  # [n], mean about 0, deviation about 1, a long upper tail
    creator: Indices  # [n]
    category: Indices  # [n]
    second_category: Indices  # [n], -1 where there is none
    published_ms: Indices  # [n]
    price: Floats  # [n], two decimals

    def take(self, rows: Indices) -> Items:
        return Items(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


class Catalogue:
    """Every item of a world. Item indices are in the order of publication."""

    def __init__(self, config: WorldConfig, space: TasteSpace) -> None:
        self._config = config
        self._space = space
        self._traits = RandomField(config.seed, "item traits")
        self._offsets = RandomField(config.seed, "item offset")
        self._by_creator = IndexPermutation(config.items, config.seed, "items by creator")
        self._popularity = ZipfRanking(
            config.items,
            exponent=config.popularity_exponent,
            head=_POPULARITY_HEAD,
            seed=config.seed,
            stream="item popularity",
        )
        self.creators = _draw_creators(config, space)

    def items(self, index: Indices) -> Items:
        """The items at int64[n] indices in [0, config.items)."""
        if self._config.items <= RESIDENT_ITEMS:
            return self._resident.take(index)
        return self._compute(index)

    def published_by(self, time_ms: Indices) -> Indices:
        """How many items are out at each time, give or take one: those below this index."""
        config = self._config
        age_days = (config.start_ms - time_ms) / MS_PER_DAY
        before = np.exp(-np.clip(age_days, 0.0, _OLDEST_DAYS) / _MEAN_AGE_DAYS)
        during = np.clip(-age_days / config.days, 0.0, 1.0)
        old = 1.0 - config.new_item_fraction
        share = np.where(age_days > 0, old * before, old + config.new_item_fraction * during)
        return (share * config.items).astype(np.int64)

    def sample_popular(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Indices:
        """int64[shape] items, drawn by their popularity, published or not."""
        return self._popularity.sample(rng, shape)

    def sample_of_creators(self, rng: np.random.Generator, creators: Indices) -> Indices:
        """One random item of each of the creators int64[n], of which each has at least one."""
        first = self.creators.first_position[creators]
        size = self.creators.first_position[creators + 1] - first
        return self._by_creator.inverse(first + (rng.random(len(creators)) * size).astype(np.int64))

    @cached_property
    def _resident(self) -> Items:
        return self._compute(np.arange(self._config.items, dtype=np.int64))

    def _compute(self, index: Indices) -> Items:
        creator = self._creator_of(index)
        category, second = self._categories_of(index, creator)
        return Items(
            taste=self._taste_of(index, creator, category, second),
            quality=self._popularity.log_standing(index),
            creator=creator,
            category=category,
            second_category=second,
            published_ms=self._published_of(index),
            price=np.round(3.0 * np.exp(2.5 * self._traits.uniform(index, 4)), 2),
        )

    def _creator_of(self, index: Indices) -> Indices:
        position = self._by_creator.forward(index)
        found = np.searchsorted(self.creators.first_position, position, side="right") - 1
        return found.astype(np.int64)

    def _categories_of(self, index: Indices, creator: Indices) -> tuple[Indices, Indices]:
        at_home = self._traits.uniform(index, 0) < _HOME_CATEGORY_SHARE
        anywhere = weighted_choice(self._space.category_weights, self._traits.uniform(index, 1))
        category = np.where(at_home, self.creators.category[creator], anywhere)
        second = self.creators.second_category[creator]
        has_second = self._traits.uniform(index, 2) < _SECOND_CATEGORY_SHARE
        return category, np.where(has_second & (second != category), second, -1)

    def _taste_of(
        self, index: Indices, creator: Indices, category: Indices, second: Indices
    ) -> Vectors:
        mixed = np.where(second < 0, 1.0, _FIRST_CATEGORY_WEIGHT).astype(np.float32)[:, None]
        centres = self._space.categories
        taste = mixed * centres[category] + (1 - mixed) * centres[second]
        taste += np.float32(_CREATOR_SPREAD) * self.creators.offset[creator]
        own = self._offsets.vectors(index, self._config.dims)
        return unit_rows(taste + np.float32(_ITEM_SPREAD) * own)

    def _published_of(self, index: Indices) -> Indices:
        """Publication times that rise with the index: the inverse of `published_by`.

        Each is jittered within its step."""
        config = self._config
        share = (index + self._traits.uniform(index, 3)) / config.items
        old = 1.0 - config.new_item_fraction
        age = -_MEAN_AGE_DAYS * np.log(np.clip(share / old, 1e-12, 1.0))
        since = (share - old) / max(config.new_item_fraction, 1e-12) * config.days
        days = np.where(share < old, -np.minimum(age, _OLDEST_DAYS), since)
        return config.start_ms + (days * MS_PER_DAY).astype(np.int64)


def _draw_creators(config: WorldConfig, space: TasteSpace) -> Creators:
    index = np.arange(config.creator_count, dtype=np.int64)
    traits = RandomField(config.seed, "creator traits")
    homes = draw_homes(RandomField(config.seed, "creator home"), index, config.countries)
    category = weighted_choice(space.category_weights, traits.uniform(index, 0))
    offset = RandomField(config.seed, "creator offset").vectors(index, config.dims)
    return Creators(
        homes=homes,
        on_sphere=homes.on_sphere(),
        category=category,
        second_category=weighted_choice(space.category_weights, traits.uniform(index, 1)),
        offset=offset,
        taste=unit_rows(space.categories[category] + np.float32(_CREATOR_SPREAD) * offset),
        first_position=_creator_bounds(config.creator_count, config.items),
    )


def _creator_bounds(creators: int, items: int) -> Indices:
    """int64[creators + 1]: cuts [0, items) into a part for each creator, Zipf-sized, not empty."""
    weights = (np.arange(creators) / creators + _CREATOR_SIZE_HEAD) ** -_CREATOR_SIZE_EXPONENT
    shared = np.concatenate([[0.0], np.cumsum(weights) / weights.sum()])
    spare = np.round(shared * (items - creators)).astype(np.int64)
    return spare + np.arange(creators + 1, dtype=np.int64)
