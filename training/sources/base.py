"""What a source is trained on, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from retrieval_svc.source_data import SharedData, SourceData
from retrieval_svc.sources.counters import NEVER
from shortlist.config import RetrievalConfig
from training.dataset import UNKNOWN_TIME_MS, Dataset

__all__ = [
    "NEVER",
    "Absent",
    "Doubles",
    "Floats",
    "Rows",
    "SourceLesson",
    "TrainedSource",
    "add_up",
    "appeared_ms",
    "first_events",
    "liked_matrix",
    "newest_per_user",
    "top_of_each",
    "unique_pairs",
]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

# Of sources that look at a history: each so many newer items halve what one counts.
HALF_LIFE_EVENTS = 20.0
# Newest items of a history that are looked at: with the half-life above, older ones count nothing.
HISTORY_IN_ORDER = 200
HISTORY_WITHOUT_TIMES = 1000


@dataclass(frozen=True, kw_only=True)
class SourceLesson:
    """What may be learned from: the interactions `rows` of a data set, as of a moment."""

    dataset: Dataset
    rows: Rows  # of Dataset.events, ascending
    as_of_ms: int  # 0 when the data has no time
    config: RetrievalConfig
    half_life_ms: float | None  # of popularity; None when the data has no time
    seed: int = 0
    threads: int = 1
    progress: Callable[[int, int], None] = lambda _done, _total: None

    @property
    def liked(self) -> Rows:
        """Those of `rows` whose weight is above 0."""
        return self.rows[self.dataset.events.weight[self.rows] > 0]

    @property
    def history(self) -> dict[str, Any]:
        """Settings of a source that looks at histories: how many newest items, and their decay."""
        if self.dataset.has_time:
            return {"history": HISTORY_IN_ORDER, "half_life_events": HALF_LIFE_EVENTS}
        return {"history": HISTORY_WITHOUT_TIMES, "half_life_events": None}


@dataclass(frozen=True, kw_only=True)
class TrainedSource:
    """A source as it is published."""

    name: str
    data: SourceData  # of all items, in the order of Dataset.items
    shared: SharedData = field(default_factory=SharedData)
    index_column: str | None = None  # the column of vectors that gets an index
    notes: Mapping[str, Any] = field(default_factory=dict)  # JSON, for the manifest's metrics


@dataclass(frozen=True, kw_only=True)
class Absent:
    """Why the data has nothing for a source."""

    name: str
    reason: str


def liked_matrix(lesson: SourceLesson, rows: Rows) -> sp.csr_matrix:
    """Users x items, float32: the sums of the weights of the interactions `rows`."""
    dataset, events = lesson.dataset, lesson.dataset.events
    pairs = (events.weight[rows], (events.user[rows], events.item[rows]))
    matrix = sp.csr_matrix(pairs, shape=(dataset.n_users, dataset.n_items), dtype=np.float32)
    matrix.sum_duplicates()
    return matrix


def newest_per_user(users: npt.NDArray[np.int32], rows: Rows, most: int) -> Rows:
    """At most `most` rows of each user, the newest; `rows` stand oldest first."""
    order = np.argsort(users, kind="stable")
    ends = np.searchsorted(users[order], users[order], side="right")
    return np.sort(rows[order[ends - np.arange(len(order)) <= most]])


def first_events(dataset: Dataset, rows: Rows) -> Rows:
    """int64 [n_items]: when each item was first met with; `NEVER` if it was not."""
    first = np.full(dataset.n_items, NEVER, np.int64)
    np.minimum.at(first, dataset.events.item[rows], dataset.events.time_ms[rows])
    return first


def appeared_ms(dataset: Dataset, rows: Rows) -> Rows:
    """int64 [n_items]: since when each item could be met with; `NEVER` where nobody knows.

    That is when it was published, or its first event where that is earlier or all that is known.
    """
    published = np.where(dataset.published_ms == UNKNOWN_TIME_MS, NEVER, dataset.published_ms)
    if not dataset.has_time:
        return published
    return np.minimum(published, first_events(dataset, rows))


def top_of_each(groups: npt.NDArray[Any], scores: npt.NDArray[np.floating[Any]], most: int) -> Rows:
    """Places of the `most` largest scores of each group; equal ones in order of place."""
    order = np.lexsort((-scores, groups))
    ordered = groups[order]
    starts = np.searchsorted(ordered, ordered, side="left")
    return np.sort(order[np.arange(len(order)) - starts < most])


def unique_pairs(
    first: npt.NDArray[Any], second: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], Rows]:
    """The different pairs (first[i], second[i]), ascending, and the place of each i among them."""
    order = np.lexsort((second, first))
    one, other = first[order], second[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (one[1:] != one[:-1]) | (other[1:] != other[:-1])
    places = np.empty(len(order), np.int64)
    places[order] = np.cumsum(new) - 1
    return one[new], other[new], places


def add_up(groups: npt.NDArray[Any], weights: npt.NDArray[Any], n: int) -> Doubles:
    """float64 [n]: the sum of the weights of each group 0 .. n - 1."""
    return np.asarray(np.bincount(groups, weights=weights, minlength=n), np.float64)
