"""How much everybody likes an item now, as a rate that little evidence cannot make extreme.

Likes are counted with a weight that halves each half-life, against the time in which the item could
have been liked, discounted alike. The prior of an item is the rate of its creators' and categories'
items, the trust in it is found by moments (empirical Bayes for Gamma-Poisson rates: Robbins 1956).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval_svc.source_data import SharedData, SourceData
from retrieval_svc.sources.counters import PopularityRule, fading
from retrieval_svc.sources.popular import group_keys
from training.dataset import Dataset
from training.sources.base import (
    Absent,
    Doubles,
    Floats,
    SourceLesson,
    TrainedSource,
    add_up,
    appeared_ms,
)

__all__ = ["begin_ms", "decayed_weights", "scores_of", "train"]

NAME = "popular"
_PRIOR_ROLES = ("creator", "categorical", "multi_categorical")
_PRIOR_EXPOSURE = 5.0  # items' worth of trust in the rate of all, beside that of a group
# Least trust in the prior, in exposures of an old item: counts are far from Poisson, and the first
# hour of an item must not stand for its life.
_LEAST_TRUST = 0.1


def train(lesson: SourceLesson) -> TrainedSource | Absent:
    """What is counted of each item, and what to expect of it; serving counts on from there."""
    if len(lesson.liked) == 0:
        return Absent(name=NAME, reason="no positive interactions")
    counts, exposure = counts_and_exposure(lesson)
    mean = float(counts.sum() / exposure.sum())
    trust = max(_trust(counts, exposure, mean, _event_size(lesson)), _LEAST_TRUST)
    prior, groups = _group_rates(lesson.dataset, counts, exposure, mean)
    events = lesson.dataset.events
    always = add_up(events.item[lesson.liked], events.weight[lesson.liked], len(counts))
    return TrainedSource(
        name=NAME,
        data=SourceData(
            columns={
                "count": counts,
                "always": always,
                "since_ms": appeared_ms(lesson.dataset, lesson.rows),
                "prior": prior,
            }
        ),
        shared=SharedData(
            arrays={"groups": groups.keys, "rates": groups.rates},
            settings={
                "as_of_ms": lesson.as_of_ms,
                "begin_ms": begin_ms(lesson),
                "half_life_ms": lesson.half_life_ms,
                "trust": trust,
                "mean_rate": mean,
                "prior_features": list(groups.features),
            },
        ),
        notes={"mean_rate": mean, "trust": trust},
    )


def scores_of(trained: TrainedSource) -> Floats:
    """float32 [n_items], at least 0: the order in which the source will propose."""
    settings = trained.shared.settings
    rule = PopularityRule(
        half_life_ms=settings["half_life_ms"],
        begin_ms=settings["begin_ms"],
        trust=settings["trust"],
    )
    return rule.score(trained.data.columns, settings["as_of_ms"])


def counts_and_exposure(lesson: SourceLesson) -> tuple[Doubles, Doubles]:
    """Decayed weights of likes, and decayed time since the item appeared, of each item.

    The exposure is a share of that of an item which has always been there: above 0, at most 1.
    Items of which nobody knows since when have been there as long as the data.
    """
    dataset, rows = lesson.dataset, lesson.liked
    counts = add_up(dataset.events.item[rows], decayed_weights(lesson), dataset.n_items)
    rule = PopularityRule(
        half_life_ms=lesson.half_life_ms, begin_ms=begin_ms(lesson), trust=_LEAST_TRUST
    )
    return counts, rule.exposure(appeared_ms(dataset, lesson.rows), lesson.as_of_ms)


def begin_ms(lesson: SourceLesson) -> int:
    """When the first of the events was."""
    return int(lesson.dataset.events.time_ms[lesson.rows].min())


def decayed_weights(lesson: SourceLesson, half_life_ms: float | None = None) -> Doubles:
    """The weights of the likes, halved for each half-life of age."""
    events, rows = lesson.dataset.events, lesson.liked
    half_life_ms = half_life_ms or lesson.half_life_ms
    weights = events.weight[rows].astype(np.float64)
    return fading(weights, events.time_ms[rows], lesson.as_of_ms, half_life_ms)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Groups:
    """Rates of what has one value of a feature; of new items nothing else is known."""

    features: tuple[str, ...]  # those that say most come last
    keys: npt.NDArray[np.uint64]  # uint64 [g], ascending, see `group_keys`
    rates: Doubles  # float64 [g]


def _group_rates(
    dataset: Dataset, counts: Doubles, exposure: Doubles, mean: float
) -> tuple[Doubles, _Groups]:
    """What is to be expected of each item by its creators, or else its categories; else `mean`."""
    prior = np.full(dataset.n_items, mean)
    features = [
        name
        for role in reversed(_PRIOR_ROLES)  # creators last: they say most
        for name, feature in dataset.schema.item_features.items()
        if feature.role == role
    ]
    keys, rates = [np.empty(0, np.uint64)], [np.empty(0)]
    for name in features:
        pairs = _Pairs.of(dataset.items[f"f_{name}"].to_pylist())
        known, expected = pairs.without_their_own(counts, exposure, mean)
        prior[known] = expected
        keys.append(group_keys(name, pairs.values))
        rates.append(pairs.rates(counts, exposure, mean))
    together, order = np.unique(np.concatenate(keys), return_index=True)
    groups = _Groups(features=tuple(features), keys=together, rates=np.concatenate(rates)[order])
    return prior, groups


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pairs:
    """Which item has which values of a feature, in order of items."""

    rows: npt.NDArray[np.int64]  # int64 [p]
    group: npt.NDArray[np.int64]  # int64 [p], which of `values`
    values: tuple[str, ...]

    @staticmethod
    def of(column: Sequence[Any]) -> _Pairs:
        pairs = [
            (row, str(one))
            for row, value in enumerate(column)
            for one in (value if isinstance(value, list) else [value])
            if one
        ]
        values, group = np.unique([value for _, value in pairs], return_inverse=True)
        rows = np.array([row for row, _ in pairs], np.int64)
        return _Pairs(rows=rows, group=group, values=tuple(values.tolist()))

    def rates(self, counts: Doubles, exposure: Doubles, mean: float) -> Doubles:
        """float64 [len(values)]: of the items with each value."""
        liked, exposed = self._sums(counts), self._sums(exposure)
        return (liked + _PRIOR_EXPOSURE * mean) / (exposed + _PRIOR_EXPOSURE)

    def without_their_own(
        self, counts: Doubles, exposure: Doubles, mean: float
    ) -> tuple[npt.NDArray[np.int64], Doubles]:
        """Items with a value, and the mean of their values' rates without their own counts."""
        known, first = np.unique(self.rows, return_index=True)
        if len(known) == 0:
            return known, np.empty(0)
        liked = self._sums(counts)[self.group] - counts[self.rows]
        exposed = self._sums(exposure)[self.group] - exposure[self.rows]
        rates = (liked + _PRIOR_EXPOSURE * mean) / (exposed + _PRIOR_EXPOSURE)
        sizes = np.diff(np.append(first, len(self.rows)))
        return known, np.add.reduceat(rates, first) / sizes

    def _sums(self, amounts: Doubles) -> Doubles:
        return add_up(self.group, amounts[self.rows], len(self.values))
