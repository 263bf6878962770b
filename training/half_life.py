"""How fast popularity fades: the half-life that would have foretold best what users did next."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shortlist.config import RetrievalConfig
from training.dataset import Dataset
from training.sources import popular
from training.sources.base import Absent, SourceLesson, unique_pairs
from training.windows import Window

__all__ = ["choose_half_life", "recency_half_life"]

_DAY_MS = 86_400_000
# Half-lives that are tried, as parts of the time that the data spans; slow ones win ties.
_SPAN_PARTS = (10, 20, 50, 100, 200, 400)
_USUAL_PART = 20  # of the training examples' recency, and where nothing can be tried
_JUDGES = 2000  # users who decide
_DEPTH = 100

Rows = npt.NDArray[np.int64]


def recency_half_life(dataset: Dataset, rows: Rows) -> float | None:
    """Age at which a training example counts half; None when the data has no time."""
    return _span(dataset, rows) / _USUAL_PART if dataset.has_time else None


def choose_half_life(
    dataset: Dataset, backtest: Window, config: RetrievalConfig, *, seed: int = 0
) -> float | None:
    """Age in milliseconds at which a like counts half in popularity; None without times.

    The configured one, else the one with which the popular source has the best nDCG@100 for users
    of the backtest with something new to come.
    """
    if not dataset.has_time:
        return None
    if config.half_life_days is not None:
        return config.half_life_days * _DAY_MS
    span = _span(dataset, backtest.known)
    judges = _Judges(dataset, backtest, seed)
    if not judges.any:
        return span / _USUAL_PART
    tried = [span / part for part in _SPAN_PARTS]
    return max(
        tried, key=lambda half_life: judges.score(_lesson(dataset, backtest, config, half_life))
    )


def _lesson(
    dataset: Dataset, window: Window, config: RetrievalConfig, half_life: float
) -> SourceLesson:
    return SourceLesson(
        dataset=dataset,
        rows=window.known,
        as_of_ms=window.as_of_ms,
        config=config,
        half_life_ms=half_life,
    )


def _span(dataset: Dataset, rows: Rows) -> float:
    if len(rows) == 0:
        return 1.0
    times = dataset.events.time_ms[rows]
    return max(float(times.max() - times.min()), 1.0)


class _Judges:
    """Users who went on to like what they had not seen, and what they had seen."""

    def __init__(self, dataset: Dataset, window: Window, seed: int) -> None:
        events, self._items = dataset.events, dataset.n_items
        after = window.next[events.weight[window.next] > 0]
        seen = np.unique(self._pairs(events.user[window.known], events.item[window.known]))
        users, items, _ = unique_pairs(events.user[after], events.item[after])
        new = ~np.isin(self._pairs(users, items), seen, assume_unique=True)
        users, items = users[new], items[new]
        chosen = np.random.default_rng(seed).permutation(np.unique(users))[:_JUDGES]
        kept = np.isin(users, chosen)
        self._users, self._wanted = users[kept].astype(np.int64), items[kept]
        self._seen_users, self._seen = np.divmod(seen, self._items)
        of_judges = np.isin(self._seen_users, chosen)
        self._seen_users, self._seen = self._seen_users[of_judges], self._seen[of_judges]

    @property
    def any(self) -> bool:
        return len(self._users) > 0

    def score(self, lesson: SourceLesson) -> float:
        """Mean nDCG@100 of the popular source's order without what each user has seen."""
        trained = popular.train(lesson)
        if isinstance(trained, Absent):
            return 0.0
        place = np.empty(self._items, np.int64)
        place[np.argsort(-popular.scores_of(trained), kind="stable")] = np.arange(self._items)
        passed = np.sort(self._pairs(self._seen_users, place[self._seen]))
        starts = np.searchsorted(passed, self._users * self._items)
        ends = np.searchsorted(passed, self._pairs(self._users, place[self._wanted]))
        ranks = place[self._wanted] - (ends - starts)
        gains = np.where(ranks < _DEPTH, 1 / np.log2(ranks + 2.0), 0)
        _, user, wanted = np.unique(self._users, return_inverse=True, return_counts=True)
        ideal = np.cumsum(1 / np.log2(np.arange(_DEPTH) + 2.0))[np.minimum(wanted, _DEPTH) - 1]
        return float((np.bincount(user, weights=gains) / ideal).mean())

    def _pairs(self, users: npt.NDArray[np.integer], others: npt.NDArray[np.integer]) -> Rows:
        return users.astype(np.int64) * self._items + others
