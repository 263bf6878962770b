"""What interactions say of items at one moment: popularity at several speeds, taste neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from ranking_svc.features import ItemTable
from shortlist.features import FeatureEncoder
from training.dataset import UNKNOWN_TIME_MS, Dataset
from training.encoding import entity_columns

__all__ = ["HalfLives", "build_item_table", "decayed_counts"]

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

_SPAN_PARTS = (200, 50, 20, 4)  # half-lives as parts of the time that the data spans
_NEIGHBOURS = 50
_SHRINKAGE = 5.0  # co-occurrence counts below this say little
_USER_CAP = 200  # newest interactions of a user that co-occur
_PRIOR_VALUES = 10.0  # interactions' worth of trust in the mean value of all items


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfLives:
    """The speeds at which popularity is measured, ms; empty when the data has no time."""

    values_ms: tuple[float, ...]

    @staticmethod
    def of(dataset: Dataset, rows: Rows) -> HalfLives:
        """Fixed parts of the time that `rows` span, so that slow and fast data both get several."""
        if not dataset.has_time or len(rows) == 0:
            return HalfLives(values_ms=())
        times = dataset.events.time_ms[rows]
        span = float(times.max() - times.min())
        return HalfLives(values_ms=tuple(max(span / part, 1.0) for part in _SPAN_PARTS))

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names of the statistics columns that these speeds lead to."""
        speeds = [f"popularity_{place}" for place in range(len(self.values_ms))]
        return (*speeds, "popularity_all", *(["trend"] if speeds else []), "value")


def decayed_counts(
    dataset: Dataset, rows: Rows, as_of_ms: int, half_life_ms: float | None
) -> npt.NDArray[Any]:
    """Weighted interactions of each item, halved for each half-life of age, [n_items]."""
    weights = dataset.events.weight[rows].astype(np.float64)
    if half_life_ms is not None:
        weights *= 0.5 ** ((as_of_ms - dataset.events.time_ms[rows]) / half_life_ms)
    return np.bincount(dataset.events.item[rows], weights=weights, minlength=dataset.n_items)


def build_item_table(
    dataset: Dataset,
    rows: Rows,
    as_of_ms: int,
    *,
    vectors: Floats,
    encoder: FeatureEncoder,
    half_lives: HalfLives,
) -> ItemTable:
    """The ranker's item table as of a moment, from the interactions `rows` before it."""
    encoded = encoder.encode(
        entity_columns(dataset.items, dataset.schema.item_features), dataset.n_items
    )
    neighbours, affinities = _neighbours(dataset, rows)
    published = np.where(dataset.published_ms == UNKNOWN_TIME_MS, 0, dataset.published_ms)
    return ItemTable(
        keys=dataset.item_keys,
        vectors=_padded(vectors),
        statistics=_padded(_statistics(dataset, rows, as_of_ms, half_lives)),
        published_ms=_padded(published),
        first_event_ms=_padded(_first_events(dataset, rows)),
        tokens=_padded(encoded.tokens),
        token_weights=_padded(encoded.weights),
        numeric=_padded(encoded.numeric),
        neighbours=_padded(neighbours, fill=dataset.n_items),
        affinities=_padded(affinities),
        token_shares=_token_shares(dataset, rows, encoded.tokens, encoded.weights, encoder),
    )


def _padded(array: npt.NDArray[Any], fill: int = 0) -> npt.NDArray[Any]:
    """With the unknown item's row at the end."""
    return np.concatenate([array, np.full((1, *array.shape[1:]), fill, array.dtype)])


def _statistics(dataset: Dataset, rows: Rows, as_of_ms: int, half_lives: HalfLives) -> Floats:
    speeds = [
        _scaled(decayed_counts(dataset, rows, as_of_ms, half_life))
        for half_life in (*half_lives.values_ms, None)
    ]
    trend = [speeds[0] - speeds[-2]] if half_lives.values_ms else []
    return np.stack([*speeds, *trend, _mean_values(dataset, rows)], axis=1).astype(np.float32)


def _scaled(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """log1p of counts relative to their mean, so that more data does not shift the feature."""
    return np.log1p(counts / max(float(counts.mean()), 1e-12))


def _mean_values(dataset: Dataset, rows: Rows) -> npt.NDArray[np.float64]:
    """Standardised mean of the events' values, shrunk to the mean of all (a Bayesian average)."""
    value = dataset.events.value[rows]
    valued = ~np.isnan(value)
    if not valued.any():
        return np.zeros(dataset.n_items)
    item, value = dataset.events.item[rows][valued], value[valued].astype(np.float64)
    standard = (value - value.mean()) / max(float(value.std()), 1e-9)
    total = np.bincount(item, weights=standard, minlength=dataset.n_items)
    return total / (np.bincount(item, minlength=dataset.n_items) + _PRIOR_VALUES)


def _first_events(dataset: Dataset, rows: Rows) -> npt.NDArray[np.int64]:
    first = np.full(dataset.n_items, np.iinfo(np.int64).max)
    np.minimum.at(first, dataset.events.item[rows], dataset.events.time_ms[rows])
    return np.where(first == np.iinfo(np.int64).max, 0, first)


def _token_shares(
    dataset: Dataset,
    rows: Rows,
    tokens: npt.NDArray[np.int32],
    weights: Floats,
    encoder: FeatureEncoder,
) -> Floats:
    """Share of the interactions that each token takes, by feature."""
    clicks = np.bincount(dataset.events.item[rows], minlength=dataset.n_items)
    share = np.bincount(
        tokens.ravel(),
        weights=(weights * clicks[:, None]).ravel(),
        minlength=encoder.vocabulary_size,
    )
    return (share / max(len(rows), 1)).astype(np.float32)


def _neighbours(dataset: Dataset, rows: Rows) -> tuple[npt.NDArray[np.int32], Floats]:
    """Each item's most co-occurring items by shrunk cosine, [n_items, 50] rows and cosines.

    Item-based collaborative filtering after Sarwar et al. (WWW 2001); the shrinkage after Bell and
    Koren (KDD Cup 2007).
    """
    events, n_items = dataset.events, dataset.n_items
    rows = rows[events.weight[rows] > 0]
    rows = _newest_per_user(events.user[rows], rows)
    ones = np.ones(len(rows), np.float32)
    shape = (dataset.n_users, n_items)
    seen = sp.csr_matrix((ones, (events.user[rows], events.item[rows])), shape=shape)
    seen.data[:] = 1.0
    norms = np.sqrt(np.asarray(seen.sum(axis=0)).ravel())
    neighbours = np.full((n_items, _NEIGHBOURS), n_items, np.int32)
    affinities = np.zeros((n_items, _NEIGHBOURS), np.float32)
    by_item = seen.T.tocsr()
    block = 2048  # items at a time: bounds the memory of the product
    for start in range(0, n_items, block):
        together = (by_item[start : start + block] @ seen).tocsr()
        for row in range(together.shape[0]):
            item = start + row
            span = slice(together.indptr[row], together.indptr[row + 1])
            others, counts = together.indices[span], together.data[span]
            others, counts = others[others != item], counts[others != item]
            scale = norms[item] * norms[others] * (1 + _SHRINKAGE / np.maximum(counts, 1))
            cosine = counts / np.maximum(scale, 1e-9)
            best = np.argsort(-cosine, kind="stable")[:_NEIGHBOURS]
            neighbours[item, : len(best)] = others[best]
            affinities[item, : len(best)] = cosine[best]
    return neighbours, affinities


def _newest_per_user(users: npt.NDArray[np.int32], rows: Rows) -> Rows:
    """At most `_USER_CAP` rows of each user, the newest; heavy users cost quadratic work."""
    order = np.argsort(users, kind="stable")
    ends = np.searchsorted(users[order], users[order], side="right")
    newest = ends - np.arange(len(order)) <= _USER_CAP
    return rows[order[newest]]
