"""How much everybody likes an item now, as a rate that little evidence cannot make extreme.

Likes are counted with a weight that halves each half-life, against the time in which the item could
have been liked, discounted alike. The prior of an item is the rate of its creators' and categories'
items, the trust in it is found by moments (empirical Bayes for Gamma-Poisson rates: Robbins 1956).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval_svc.source_data import SourceData
from training.dataset import Dataset
from training.sources.base import (
    NEVER,
    Absent,
    Doubles,
    SourceLesson,
    TrainedSource,
    add_up,
    appeared_ms,
)

__all__ = ["train"]

NAME = "popular"
# All-time counts break ties between items that nobody touched lately.
_ALL_TIME_SHARE = 1e-3
_PRIOR_ROLES = ("creator", "categorical", "multi_categorical")
_PRIOR_EXPOSURE = 5.0  # items' worth of trust in the rate of all, beside that of a group
# Least trust in the prior, in exposures of an old item: counts are far from Poisson, and the first
# hour of an item must not stand for its life.
_LEAST_TRUST = 0.1


def train(lesson: SourceLesson) -> TrainedSource | Absent:
    """One score an item, at least 0."""
    liked = lesson.liked
    if len(liked) == 0:
        return Absent(name=NAME, reason="no positive interactions")
    counts, exposure = counts_and_exposure(lesson)
    mean = counts.sum() / exposure.sum()
    trust = max(_trust(counts, exposure, mean, _event_size(lesson)), _LEAST_TRUST)
    prior = _group_rates(lesson.dataset, counts, exposure, mean)
    events = lesson.dataset.events
    always = add_up(events.item[liked], events.weight[liked], len(counts))
    rate = (counts + trust * prior) / (exposure + trust)
    return TrainedSource(
        name=NAME,
        data=SourceData(columns={"score": (rate + _ALL_TIME_SHARE * always).astype(np.float32)}),
        notes={"mean_rate": float(mean), "trust": float(trust)},
    )


def counts_and_exposure(lesson: SourceLesson) -> tuple[Doubles, Doubles]:
    """Decayed weights of likes, and decayed time since the item appeared, of each item.

    The exposure is a share of that of an item which has always been there: above 0, at most 1.
    Items of which nobody knows since when have been there as long as the data.
    """
    dataset, rows = lesson.dataset, lesson.liked
    counts = add_up(dataset.events.item[rows], decayed_weights(lesson), dataset.n_items)
    if lesson.half_life_ms is None:
        return counts, np.ones(dataset.n_items)
    begin = int(dataset.events.time_ms[lesson.rows].min())
    since = appeared_ms(dataset, lesson.rows)
    since = np.maximum(np.where(since == NEVER, begin, since), begin)
    ages = np.maximum(lesson.as_of_ms - since, 0) / lesson.half_life_ms
    longest = max((lesson.as_of_ms - begin) / lesson.half_life_ms, 1e-9)
    exposure = (1 - 0.5**ages) / (1 - 0.5**longest)
    return counts, np.maximum(exposure, 1e-6)


def decayed_weights(lesson: SourceLesson, half_life_ms: float | None = None) -> Doubles:
    """The weights of the likes, halved for each half-life of age."""
    dataset, rows = lesson.dataset, lesson.liked
    weights = dataset.events.weight[rows].astype(np.float64)
    half_life = half_life_ms or lesson.half_life_ms
    if half_life is None:
        return weights
    return weights * 0.5 ** ((lesson.as_of_ms - dataset.events.time_ms[rows]) / half_life)


def _event_size(lesson: SourceLesson) -> float:
    """Variance of a sum of decayed weights over its mean: 1 if each were 0 or 1."""
    weights = decayed_weights(lesson)
    return float((weights**2).sum() / weights.sum())


def _trust(counts: Doubles, exposure: Doubles, mean: float, event_size: float) -> float:
    """b of the Gamma prior, in exposures: how much of the spread of rates is not noise."""
    total = exposure.sum()
    spread = (exposure * (counts / exposure - mean) ** 2).sum()
    noise = (len(counts) - 1) * mean * event_size
    variance = (spread - noise) / max(total - (exposure**2).sum() / total, 1e-9)
    # All spread is noise: the mean is trusted more than any item's own counts.
    return float(mean * event_size / variance) if variance > 0 else 1 / _LEAST_TRUST


def _group_rates(dataset: Dataset, counts: Doubles, exposure: Doubles, mean: float) -> Doubles:
    """What is to be expected of each item by its creators, or else its categories; else `mean`."""
    prior = np.full(dataset.n_items, mean)
    for role in reversed(_PRIOR_ROLES):  # creators last: they say most
        for name, feature in dataset.schema.item_features.items():
            if feature.role == role:
                values = dataset.items[f"f_{name}"].to_pylist()
                known, rates = _rates_by_value(values, counts, exposure, mean)
                prior[known] = rates
    return prior


def _rates_by_value(
    values: Sequence[Any], counts: Doubles, exposure: Doubles, mean: float
) -> tuple[npt.NDArray[np.int64], Doubles]:
    """Items with a value, and the mean of their values' rates without their own counts."""
    pairs = [
        (row, one)
        for row, value in enumerate(values)
        for one in (value if isinstance(value, list) else [value])
        if one
    ]
    rows = np.array([row for row, _ in pairs], np.int64)
    _, group = np.unique([str(one) for _, one in pairs], return_inverse=True)
    liked = add_up(group, counts[rows], 0)[group] - counts[rows]
    exposed = add_up(group, exposure[rows], 0)[group] - exposure[rows]
    rates = (liked + _PRIOR_EXPOSURE * mean) / (exposed + _PRIOR_EXPOSURE)
    known, first = np.unique(rows, return_index=True)
    if len(known) == 0:
        return known, np.empty(0)
    return known, np.add.reduceat(rates, first) / np.diff(np.append(first, len(rows)))
