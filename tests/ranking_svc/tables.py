"""A small ranker's features by hand: five items, two genres, known vectors and statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ranking_svc.features import FeatureBuilder, FeatureSpec, ItemTable
from shortlist.features import FeatureEncoder
from shortlist.places import points_on_earth
from shortlist.tiers import Candidates, History, UserContext

DAY_MS = 86_400_000
NOW_MS = 20_000 * DAY_MS + 6 * 3_600_000  # six o'clock
KEYS = np.array([10, 20, 30, 40, 50], np.uint64)
STRANGER = 77
GENRES = [["rock"], ["rock", "jazz"], ["jazz"], [], ["rock"]]

ITEM = FeatureEncoder.fit(
    {"genre": GENRES, "price": [1.0, 2.0, 3.0, 4.0, 5.0]},
    {"genre": "multi_categorical", "price": "numeric"},
)
USER = FeatureEncoder.fit(
    {"genre": ["rock", "jazz", "folk"] * 2, "age": [20.0, 40.0] * 3},
    {"genre": "categorical", "age": "numeric"},
)
CONTEXT = FeatureEncoder.fit({"device": ["phone", "desk"] * 2}, {"device": "categorical"})
STATISTICS = ("popularity_all", "value")
LATITUDES = [48.86, 48.86, 45.76, np.nan, -33.87]
LONGITUDES = [2.35, 2.45, 4.84, np.nan, 151.21]
NOTHING = FeatureEncoder([], [])


def builder(
    *,
    has_time: bool = True,
    item: FeatureEncoder = ITEM,
    user: FeatureEncoder = USER,
    context: FeatureEncoder = CONTEXT,
) -> FeatureBuilder:
    spec = FeatureSpec(sources=("two_tower", "popular"), statistics=STATISTICS, has_time=has_time)
    return FeatureBuilder(spec, table(item), item, user, context)


def table(item: FeatureEncoder = ITEM) -> ItemTable:
    encoded = item.encode({"genre": GENRES, "price": [1.0, 2.0, 3.0, 4.0, 5.0]}, 5)
    angles = np.deg2rad([0, 60, 90, 180, 270])
    clicks = np.array([4, 3, 2, 1, 0])
    shares = np.bincount(
        encoded.tokens.ravel(),
        weights=(encoded.weights * clicks[:, None]).ravel(),
        minlength=item.vocabulary_size,
    )
    return ItemTable(
        keys=KEYS,
        vectors=padded(np.stack([np.cos(angles), np.sin(angles)], axis=1)),
        factors=padded([[1, 0, 0], [0, 1, 0], [0.6, 0.8, 0], [0, 0, 1], [0, 0, 0]]),
        statistics=padded([[1.0, 0.1], [0.8, 0.2], [0.6, 0.3], [0.4, 0.4], [0.2, 0.5]]),
        published_ms=padded(
            np.array([NOW_MS - 10 * DAY_MS, 0, NOW_MS + DAY_MS, NOW_MS, NOW_MS]), np.int64
        ),
        first_event_ms=padded(np.array([NOW_MS - 3 * DAY_MS, 0, 0, 0, 0]), np.int64),
        last_event_ms=padded(np.array([NOW_MS - DAY_MS, 0, 0, 0, 0]), np.int64),
        tokens=padded(encoded.tokens, np.int32),
        token_weights=padded(encoded.weights),
        numeric=padded(encoded.numeric),
        places=padded(points_on_earth(LATITUDES, LONGITUDES)[:, None, :]),
        neighbours=padded([[1, 2], [0, 5], [0, 5], [5, 5], [5, 5]], np.int32, fill=5),
        affinities=padded([[0.5, 0.25], [0.5, 0], [0.25, 0], [0, 0], [0, 0]]),
        token_shares=(shares / clicks.sum()).astype(np.float32),
    )


def padded(rows: Any, dtype: type = np.float32, fill: int = 0) -> npt.NDArray[Any]:
    """With the row of unknown items at the end."""
    array = np.asarray(rows, dtype)
    return np.concatenate([array, np.full((1, *array.shape[1:]), fill, dtype)])


def candidates(*keys: int) -> Candidates:
    """The first by both sources, the second by `two_tower`, the others by `popular` only."""
    n = len(keys)
    both = np.full((2, n), np.nan, np.float32)
    ranks = np.full((2, n), -1, np.int32)
    both[0, :2], ranks[0, :2] = [0.9, 0.4][:n], [0, 1][:n]
    proposed = np.array([place != 1 for place in range(n)], bool)
    both[1, proposed] = 10.0 - np.flatnonzero(proposed)
    ranks[1, proposed] = np.arange(proposed.sum())
    return Candidates(
        keys=np.array(keys, np.uint64),
        source_names=("two_tower", "popular"),
        sources=((ranks[0] >= 0) + 2 * (ranks[1] >= 0)).astype(np.uint32),
        scores=both,
        ranks=ranks,
        fused=(1 / np.arange(61, 61 + n)).astype(np.float32),
    )


def user_with(*events: tuple[int, float], **changes: Any) -> UserContext:
    """Who did (item key, weight), one event a day until yesterday."""
    days = np.arange(len(events), 0, -1)
    fields: dict[str, Any] = {
        "user_key": 7,
        "history": History(
            keys=np.array([key for key, _ in events], np.uint64),
            times_ms=NOW_MS - days * DAY_MS,
            weights=np.array([weight for _, weight in events], np.float32),
        ),
        "time_ms": NOW_MS,
    }
    return UserContext(**fields | changes)
