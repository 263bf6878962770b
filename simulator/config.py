"""What a simulated world is made of: sizes, seed, and the strength of every effect in it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime

from shortlist.errors import InvalidField
from simulator.geography import COUNTRIES
from simulator.vocabulary import CATEGORIES

MS_PER_HOUR = 3_600_000
MS_PER_DAY = 24 * MS_PER_HOUR


class InvalidWorldConfig(InvalidField):
    """A field of a world's configuration is out of its range."""

    def __init__(self, field_name: str, value: object, expected: str) -> None:
        super().__init__(field_name, f"must be {expected}, got {value!r}")
        self.value = value


@dataclass(frozen=True, kw_only=True, slots=True)
class ClickWeights:
    """Weights of the click model, in logits unless a unit is named. See `simulator.clicks`.

    The defaults, here and below, were tuned together so that the log of the default world resembles
    public data. Measured with seeds 1, 2 and 7: Gini of item popularity 0.67 to 0.70, median active
    user 35 or 36 events, 22 % of clicks on items of the last week (4 % of the catalogue), 8 % new
    among the users of the last tenth of time; nDCG@20 there, for the others and without what they
    had clicked: random 0.001, popularity 0.045 to 0.072, item-item cosine 0.108 to 0.127.
    """

    affinity: float = 10.0
    quality: float = 0.55
    freshness: float = 1.2
    freshness_decay_days: float = 6.0
    locality: float = 0.7
    locality_decay_km: float = 1_200.0
    loyalty: float = 1.2
    threshold: float = 7.15
    position_bias: float = 0.6  # exponent of examination; 0 means every position is looked at
    like_affinity: float = 4.0
    like_threshold: float = 3.6

    def __post_init__(self) -> None:
        for weight in fields(self):
            value = getattr(self, weight.name)
            _require(f"clicks.{weight.name}", value, math.isfinite(value), "a finite number")
        for name in ("freshness_decay_days", "locality_decay_km"):
            value = getattr(self, name)
            _require(f"clicks.{name}", value, value > 0, "above 0")
        _require("clicks.position_bias", self.position_bias, self.position_bias >= 0, "at least 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExposureMix:
    """How the logging system fills a page. See `simulator.exposure`.

    `*_candidates` are drawn for every page. From the first three kinds `*_slots` go straight on the
    page; the personalised slots take the best of all remaining candidates by a noisy estimate of
    their appeal.
    """

    popular_candidates: int = 70
    recent_candidates: int = 15
    creator_candidates: int = 20
    random_candidates: int = 5
    popular_slots: int = 5
    recent_slots: int = 2
    random_slots: int = 2
    personalised_slots: int = 11
    recent_days: float = 7.0
    estimate_noise: float = 1.5  # standard deviation of the logging system's error, in logits

    def __post_init__(self) -> None:
        for part in fields(self):
            value = getattr(self, part.name)
            _require(f"exposure.{part.name}", value, value >= 0, "at least 0")
        _require("exposure", self, self.page_size >= 1, "a page of at least one slot")

    @property
    def page_size(self) -> int:
        return self.popular_slots + self.recent_slots + self.random_slots + self.personalised_slots


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldConfig:
    """Everything that determines a world: equal configurations give equal worlds, bit for bit.

    Raises `InvalidWorldConfig` naming the first field that is out of range.
    """

    users: int = 3_000
    items: int = 12_000
    events: int = 150_000  # clicks and likes together
    seed: int = 7
    start: date = date(2025, 1, 1)  # midnight UTC
    days: int = 60
    dims: int = 16  # of the latent taste space
    creators: int | None = None  # None: one for about 30 items, at most 50,000
    categories: int = 24
    countries: int = 16
    popularity_exponent: float = 0.9  # of the Zipf law by which popular items are shown
    activity_exponent: float = 0.8  # of the Zipf law of users' activity
    new_item_fraction: float = 0.35  # of the items, published during the period
    new_user_fraction: float = 0.45  # of the users, joining during the period
    drift_degrees_per_day: float = 0.5  # how fast the average user's taste turns
    mood_strength: float = 0.3  # pull of the interest that a user is in the mood for
    mood_hours: int = 6  # a user's mood stays for this long
    clicks: ClickWeights = field(default_factory=ClickWeights)
    exposure: ExposureMix = field(default_factory=ExposureMix)

    def __post_init__(self) -> None:
        for name in ("users", "items", "days", "mood_hours"):
            _require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        _require("events", self.events, self.events >= 0, "at least 0")
        _require("seed", self.seed, 0 <= self.seed < 2**64, "in [0, 2**64)")
        _require("dims", self.dims, self.dims >= 2, "at least 2")
        _require_count("categories", self.categories, len(CATEGORIES))
        _require_count("countries", self.countries, len(COUNTRIES))
        if self.creators is not None:
            _require_count("creators", self.creators, self.items)
        for name in ("new_item_fraction", "new_user_fraction"):
            _require(name, getattr(self, name), 0 <= getattr(self, name) < 1, "in [0, 1)")
        for name in ("popularity_exponent", "activity_exponent"):
            _require(name, getattr(self, name), 0 <= getattr(self, name) < 1, "in [0, 1)")
        for name in ("drift_degrees_per_day", "mood_strength"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "at least 0")

    @property
    def creator_count(self) -> int:
        return self.creators or max(1, min(self.items // 30, 50_000))

    @property
    def start_ms(self) -> int:
        midnight = datetime(self.start.year, self.start.month, self.start.day, tzinfo=UTC)
        return int(midnight.timestamp()) * 1000

    @property
    def end_ms(self) -> int:
        """The first millisecond after the period."""
        return self.start_ms + self.days * MS_PER_DAY


def _require(field_name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise InvalidWorldConfig(field_name, value, expected)


def _require_count(field_name: str, value: int, most: int) -> None:
    _require(field_name, value, 1 <= value <= most, f"in [1, {most}]")
