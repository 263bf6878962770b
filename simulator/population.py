"""The users of a world, as functions of the seed and an index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.arrays import Floats, Indices, Vectors
from simulator.catalogue import Creators, TasteSpace
from simulator.config import MS_PER_DAY, MS_PER_HOUR, WorldConfig
from simulator.counters import RandomField, unit_rows, weighted_choice
from simulator.geography import COUNTRIES, Homes, draw_homes
from simulator.ranking import ZipfRanking

AGE_BANDS = ("13-17", "18-24", "25-34", "35-44", "45-59", "60+")
DEVICES = ("mobile", "desktop", "tablet", "tv")

_AGE_WEIGHTS = np.array([6.0, 20.0, 28.0, 20.0, 16.0, 10.0])
_DEVICE_WEIGHTS = np.array([55.0, 28.0, 7.0, 10.0])
_FAVOURITE_DEVICE_SHARE = 0.7  # of a user's sessions
_COUNTRY_LANGUAGE_SHARE = 0.85  # the others read English
_AGE_CATEGORY_SHARE = 0.5  # of interests, drawn from those typical for the age band
_AGE_CATEGORY_EXPONENT = 1.5
_INTEREST_WEIGHTS = np.array([0.6, 0.3, 0.2], dtype=np.float32)
_USER_SPREAD = 0.6  # length of a user's own offset beside their interests
_ACTIVITY_HEAD = 0.005
_FAVOURITE_CREATORS = 3
_CREATORS_CONSIDERED = 24
_DAYS_JOINED_BEFORE = 365.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Users:
    """What does not change about some users; arrays are aligned."""

    homes: Homes
    joined_ms: Indices  # [n]
    age_band: Indices  # [n], into AGE_BANDS
    device: Indices  # [n], into DEVICES: the one used most
    language: list[str]  # [n], ISO 639-1
    interests: Indices  # [n, 3] categories, strongest first
    taste: Vectors  # [n, dims]: unit vectors, at the start of the period
    drifts_towards: Vectors  # [n, dims], unit vectors
    drift_degrees_per_day: Floats  # [n]
    favourite_creators: Indices  # [n, 3]


@dataclass(frozen=True, kw_only=True, slots=True)
class Viewers:
    """Some users, each at one moment."""

    time_ms: Indices  # [n]
    taste: Vectors  # [n, dims], unit vectors: drifted, and bent by the mood of the moment
    on_sphere: Floats  # [n, 3]
    favourite_creators: Indices  # [n, 3]


class Population:
    """Every user of a world. User indices are in the order of joining."""

    def __init__(self, config: WorldConfig, space: TasteSpace, creators: Creators) -> None:
        self._config = config
        self._space = space
        self._creators = creators
        self._traits = RandomField(config.seed, "user traits")
        self._moods = RandomField(config.seed, "user mood")
        self._homes = RandomField(config.seed, "user home")
        self._activity = ZipfRanking(
            config.users,
            exponent=config.activity_exponent,
            head=_ACTIVITY_HEAD,
            seed=config.seed,
            stream="user activity",
        )
        self._age_categories = _categories_by_age(config)  # [age bands, categories]

    def users(self, index: Indices) -> Users:
        """The users at int64[n] indices in [0, config.users)."""
        homes = draw_homes(self._homes, index, self._config.countries)
        age_band = weighted_choice(_AGE_WEIGHTS, self._traits.uniform(index, 0))
        interests = self._interests(index, age_band, "interests")
        taste = self._taste_of(index, interests, "taste")
        later = self._interests(index, age_band, "later interests")
        speed = 2.0 * self._traits.uniform(index, 1)
        return Users(
            homes=homes,
            joined_ms=self._joined(index),
            age_band=age_band,
            device=weighted_choice(_DEVICE_WEIGHTS, self._traits.uniform(index, 2)),
            language=self._languages(index, homes),
            interests=interests,
            taste=taste,
            drifts_towards=self._taste_of(index, later, "later taste"),
            drift_degrees_per_day=self._config.drift_degrees_per_day * speed,
            favourite_creators=self._favourites(index, taste),
        )

    def viewers(self, index: Indices, time_ms: Indices) -> Viewers:
        """The users int64[n] as they are at the times int64[n]."""
        users = self.users(index)
        return Viewers(
            time_ms=time_ms,
            taste=self._taste_at(index, users, time_ms),
            on_sphere=users.homes.on_sphere(),
            favourite_creators=users.favourite_creators,
        )

    def joined_by(self, time_ms: Indices) -> Indices:
        """How many users have joined at each time, give or take one: those below this index."""
        config = self._config
        during = np.clip((time_ms - config.start_ms) / (config.days * MS_PER_DAY), 0.0, 1.0)
        share = 1.0 - config.new_user_fraction * (1.0 - during)
        return np.ceil(share * config.users).astype(np.int64)

    def sample_active(self, rng: np.random.Generator, time_ms: Indices) -> Indices:
        """For each time int64[n] a user who has joined by then, drawn by activity."""
        joined = self.joined_by(time_ms)
        drawn = self._activity.sample(rng, len(time_ms))
        late = np.flatnonzero(drawn >= joined)
        while len(late):
            drawn[late] = self._activity.sample(rng, len(late))
            late = late[drawn[late] >= joined[late]]
        return drawn

    def sample_devices(self, rng: np.random.Generator, index: Indices) -> Indices:
        """The device of one session of each user, into DEVICES."""
        favourite = weighted_choice(_DEVICE_WEIGHTS, self._traits.uniform(index, 2))
        other = weighted_choice(_DEVICE_WEIGHTS, rng.random(len(index)))
        return np.where(rng.random(len(index)) < _FAVOURITE_DEVICE_SHARE, favourite, other)

    def _joined(self, index: Indices) -> Indices:
        config = self._config
        share = (index + self._traits.uniform(index, 3)) / config.users
        old = 1.0 - config.new_user_fraction
        before = (share / old - 1.0) * _DAYS_JOINED_BEFORE
        during = (share - old) / max(config.new_user_fraction, 1e-12) * config.days
        days = np.where(share < old, before, during)
        return config.start_ms + (days * MS_PER_DAY).astype(np.int64)

    def _languages(self, index: Indices, homes: Homes) -> list[str]:
        local = self._traits.uniform(index, 4) < _COUNTRY_LANGUAGE_SHARE
        spoken = np.array([country.language for country in COUNTRIES])
        return np.where(local, spoken[homes.country], "en").tolist()

    def _interests(self, index: Indices, age_band: Indices, stream: str) -> Indices:
        field = RandomField(self._config.seed, stream)
        picks = []
        for slot in range(len(_INTEREST_WEIGHTS)):
            draw = field.uniform(index, 2 * slot)
            typical = _choice_by_row(self._age_categories, age_band, draw)
            anything = weighted_choice(self._space.category_weights, draw)
            by_age = field.uniform(index, 2 * slot + 1) < _AGE_CATEGORY_SHARE
            picks.append(np.where(by_age, typical, anything))
        return np.stack(picks, axis=1)

    def _taste_of(self, index: Indices, interests: Indices, stream: str) -> Vectors:
        own = RandomField(self._config.seed, stream).vectors(index, self._config.dims)
        taste = np.float32(_USER_SPREAD) * own
        for slot, weight in enumerate(_INTEREST_WEIGHTS):
            taste += weight * self._space.categories[interests[:, slot]]
        return unit_rows(taste)

    def _favourites(self, index: Indices, taste: Vectors) -> Indices:
        """The creators closest to each user's taste among a few that the user came across."""
        field = RandomField(self._config.seed, "creators met")
        count = len(self._creators.category)
        met = np.stack(
            [field.below(count, index, lane) for lane in range(_CREATORS_CONSIDERED)], axis=1
        )
        affinity = (self._creators.taste[met] * taste[:, None, :]).sum(axis=2)
        best = np.argsort(-affinity, axis=1, kind="stable")[:, :_FAVOURITE_CREATORS]
        return np.take_along_axis(met, best, axis=1)

    def _taste_at(self, index: Indices, users: Users, time_ms: Indices) -> Vectors:
        days = np.maximum(time_ms - self._config.start_ms, 0) / MS_PER_DAY
        turned = np.radians(np.minimum(users.drift_degrees_per_day * days, 90.0))
        still = np.cos(turned).astype(np.float32)[:, None]
        moved = np.sin(turned).astype(np.float32)[:, None]
        taste = still * users.taste + moved * users.drifts_towards
        mood = self._space.categories[self._mood(index, users.interests, time_ms)]
        return unit_rows(taste + np.float32(self._config.mood_strength) * mood)

    def _mood(self, index: Indices, interests: Indices, time_ms: Indices) -> Indices:
        """The interest that each user follows in this part of the day: it binds a session."""
        period = time_ms // (self._config.mood_hours * MS_PER_HOUR)
        draw = self._moods.uniform(self._moods.bits(index).astype(np.int64) ^ period)
        slot = weighted_choice(_INTEREST_WEIGHTS.astype(np.float64), draw)
        return interests[np.arange(len(index)), slot]


def _categories_by_age(config: WorldConfig) -> Floats:
    """float64[age bands, categories], cumulative: every band has its own favourite categories."""
    bands = np.arange(len(AGE_BANDS) * config.categories, dtype=np.int64)
    scores = RandomField(config.seed, "age categories").uniform(bands)
    ranks = scores.reshape(len(AGE_BANDS), -1).argsort(axis=1).argsort(axis=1)
    weights = (ranks + 1.0) ** -_AGE_CATEGORY_EXPONENT
    return np.cumsum(weights, axis=1) / weights.sum(axis=1, keepdims=True)


def _choice_by_row(cumulative: Floats, rows: Indices, uniform: Floats) -> Indices:
    """int64[n]: the column that `uniform` selects in the row of `cumulative` that belongs to it."""
    return (uniform[:, None] >= cumulative[rows, :-1]).sum(axis=1).astype(np.int64)
