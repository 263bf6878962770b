"""Counts of events by item that go on where training ended, and the charts that follow from them.

Counts fade by half each half-life. They are kept as of one moment, so an event of time t counts
`weight * 2 ** ((t - moment) / half_life)` and no other count has to be touched. The moment moves on
in steps; then everything is counted down at once. Steps lie on a grid that depends on nothing but
the half-life, so that every shard and segment that has seen the same events scores alike.

Training counts and scores with the same code: what is observed is what would have been learned.
What it learned beside the counts, such as what to expect of an item that nobody knows, stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from retrieval_svc.brute_force import Floats
from retrieval_svc.overlaid import Columns, OverlaidColumns
from retrieval_svc.rows import Rows
from retrieval_svc.source_data import SharedData, SourceData
from retrieval_svc.sources.chart import Chart, OverlaidChart
from retrieval_svc.sources.observed import Learned, ObservedEvents

__all__ = ["NEVER", "CountingRule", "EventCounters", "PopularityRule", "TrendRule", "fading"]

Doubles = npt.NDArray[np.float64]

NEVER = int(np.iinfo(np.int64).max)  # the time of what has not happened

# All-time counts break ties between items that nobody touched lately.
_ALL_TIME_SHARE = 1e-3
_LEAST_EXPOSURE = 1e-6
_LEAST_VARIANCE = 1.0  # an event: a single like of what nobody liked before is no trend
_PRIOR_SPANS = 1.0  # recent spans that an item has had the rate of all, before anything is known
# Scores are as of a moment that is at most this part of a half-life ago: 1 % of a count.
_STEP = 1 / 64
# Changed rows that stand apart from the chart before a new one is made: at least these, or a share.
# 1 M items: 1 ms for a batch of 100 events, 0.2 s for a new chart, each 30,000 changed rows.
_APART, _SHARE_APART = 4096, 1 / 32


class CountingRule(Protocol):
    """What is counted of items, and what the counts are worth. Columns have a row an item."""

    @property
    def step_ms(self) -> float | None:
        """By which the moment moves on; None = counts do not fade."""
        ...

    def count(self, columns: Columns, events: Liked, as_of_ms: int) -> Columns:
        """The columns of some items with their events added."""
        ...

    def fade(self, columns: Columns, by_ms: int) -> Columns:
        """The columns as of a moment so much later; those that stay the same may be shared."""
        ...

    def score(self, columns: Columns, as_of_ms: int) -> Floats: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Liked:
    """Events with the numbers of their items among those that are counted."""

    items: Rows  # int64 [e]
    count: int  # of the items
    times_ms: npt.NDArray[np.int64]  # int64 [e]
    weights: Doubles  # float64 [e], 0 = met with, not liked

    def add_up(self, weights: Doubles) -> Doubles:
        """float64 [count]: the sums by item."""
        return np.bincount(self.items, weights=weights, minlength=self.count).astype(np.float64)

    def earliest(self, since_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """int64 [count]: `since_ms`, or the item's first event where that was before."""
        first = since_ms.copy()
        np.minimum.at(first, self.items, self.times_ms)
        return first


@dataclass(frozen=True, slots=True, kw_only=True)
class PopularityRule:
    """A rate: faded likes over faded time in which the item could have been liked.

    Columns: `count`, `always` float64, likes that fade and that do not; `since_ms` int64, when the
    item appeared, `NEVER` where nobody knows; `prior` float64, the rate to be expected of it.
    """

    half_life_ms: float | None  # None = nothing fades, and everything has always been there
    begin_ms: int  # of the data: what is of unknown age is as old
    trust: float  # in the prior, in exposures of an old item

    @property
    def step_ms(self) -> float | None:
        return None if self.half_life_ms is None else self.half_life_ms * _STEP

    def count(self, columns: Columns, events: Liked, as_of_ms: int) -> Columns:
        faded = fading(events.weights, events.times_ms, as_of_ms, self.half_life_ms)
        return {
            **columns,
            "count": columns["count"] + events.add_up(faded),
            "always": columns["always"] + events.add_up(events.weights),
            "since_ms": events.earliest(columns["since_ms"]),
        }

    def fade(self, columns: Columns, by_ms: int) -> Columns:
        if self.half_life_ms is None:
            return columns
        return {**columns, "count": columns["count"] * 0.5 ** (by_ms / self.half_life_ms)}

    def score(self, columns: Columns, as_of_ms: int) -> Floats:
        exposure = self.exposure(columns["since_ms"], as_of_ms)
        rate = (columns["count"] + self.trust * columns["prior"]) / (exposure + self.trust)
        return np.asarray(rate + _ALL_TIME_SHARE * columns["always"], np.float32)

    def exposure(self, since_ms: npt.NDArray[np.int64], as_of_ms: int) -> Doubles:
        """The faded time since an item appeared, as a share of that of one which has always been
        there: above 0, at most 1.
        """
        if self.half_life_ms is None:
            return np.ones(len(since_ms))
        since = np.maximum(np.where(since_ms == NEVER, self.begin_ms, since_ms), self.begin_ms)
        ages = np.maximum(as_of_ms - since, 0) / self.half_life_ms
        longest = max((as_of_ms - self.begin_ms) / self.half_life_ms, 1e-9)
        return np.maximum((1 - 0.5**ages) / (1 - 0.5**longest), _LEAST_EXPOSURE)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrendRule:
    """Standard deviations of the recent likes above what the past of the item led to expect.

    Columns: `recent`, `past` float64, likes that fade fast and slowly; `since_ms` as of popularity.
    """

    recent_ms: float  # half-lives
    past_ms: float
    begin_ms: int
    usual: float  # weight of an event; in such events the variance of a count is about the count
    rate_of_all: float  # usual events in a millisecond of an item's past

    @property
    def step_ms(self) -> float:
        return self.recent_ms * _STEP

    def count(self, columns: Columns, events: Liked, as_of_ms: int) -> Columns:
        def grown(name: str, half_life_ms: float) -> Doubles:
            faded = fading(events.weights, events.times_ms, as_of_ms, half_life_ms)
            return np.asarray(columns[name] + events.add_up(faded), np.float64)

        return {
            "recent": grown("recent", self.recent_ms),
            "past": grown("past", self.past_ms),
            "since_ms": events.earliest(columns["since_ms"]),
        }

    def fade(self, columns: Columns, by_ms: int) -> Columns:
        return {
            **columns,
            "recent": columns["recent"] * 0.5 ** (by_ms / self.recent_ms),
            "past": columns["past"] * 0.5 ** (by_ms / self.past_ms),
        }

    def score(self, columns: Columns, as_of_ms: int) -> Floats:
        happened = columns["recent"] / self.usual
        before = self.before(columns)
        recent_time, past_time = self.times(columns["since_ms"], as_of_ms)
        prior_time = _PRIOR_SPANS * self.recent_ms / math.log(2)
        rate = (before + prior_time * self.rate_of_all) / (past_time + prior_time)
        expected = rate * recent_time
        return np.asarray((happened - expected) / np.sqrt(expected + _LEAST_VARIANCE), np.float32)

    def before(self, columns: Columns) -> Doubles:
        """Usual events of the past alone. Less than none is a rounding error."""
        past: Doubles = (columns["past"] - columns["recent"]) / self.usual
        return np.maximum(past, 0)

    def times(self, since_ms: npt.NDArray[np.int64], as_of_ms: int) -> tuple[Doubles, Doubles]:
        """Faded milliseconds of each item's recent time, and of its past alone."""
        since = np.where(since_ms == NEVER, self.begin_ms, since_ms)
        ages = (as_of_ms - np.clip(since, self.begin_ms, as_of_ms)).astype(np.float64)
        recent = _faded_time(ages, self.recent_ms)
        return recent, _faded_time(ages, self.past_ms) - recent


def fading(
    weights: Doubles,
    times_ms: npt.NDArray[np.int64],
    as_of_ms: int,
    half_life_ms: float | None,
) -> Doubles:
    """Weights halved for each half-life of age; later than the moment, they grow alike."""
    if half_life_ms is None:
        return weights
    return np.asarray(weights * 0.5 ** ((as_of_ms - times_ms) / half_life_ms), np.float64)


def _faded_time(ages: Doubles, half_life_ms: float) -> Doubles:
    """Integral of the fading over a life, in milliseconds."""
    return half_life_ms / math.log(2) * (1 - 0.5 ** (ages / half_life_ms))


@dataclass(frozen=True, slots=True, kw_only=True)
class EventCounters:
    """The counts of all rows as of a moment, and the chart of their scores. A snapshot."""

    rule: CountingRule
    columns: OverlaidColumns
    as_of_ms: int
    above: float  # only rows with scores above it are on the chart
    chart: OverlaidChart

    @staticmethod
    def of(
        rule: CountingRule, columns: Columns, as_of_ms: int, *, above: float = -np.inf
    ) -> EventCounters:
        return EventCounters(
            rule=rule,
            columns=OverlaidColumns(whole=columns),
            as_of_ms=as_of_ms,
            above=above,
            chart=_chart(rule.score(columns, as_of_ms), above),
        )

    def observing(self, events: ObservedEvents) -> EventCounters:
        """The next snapshot: all of `events` counted, as of the step that its newest is in."""
        return self._later(events.newest_ms)._counting(events)

    def learned(self, shared: SharedData) -> Learned:
        """The counts as of now, and `shared` with the moment that they are of."""
        return Learned(
            shared=replace(shared, settings={**shared.settings, "as_of_ms": self.as_of_ms}),
            gather=lambda: SourceData(columns=self.columns.folded().whole),
        )

    def _later(self, newest_ms: int) -> EventCounters:
        step = self.rule.step_ms
        moment = self.as_of_ms if step is None else int(newest_ms // step * step)
        if moment <= self.as_of_ms:
            return self
        faded = self.rule.fade(self.columns.folded().whole, moment - self.as_of_ms)
        return EventCounters.of(self.rule, faded, moment, above=self.above)

    def _counting(self, events: ObservedEvents) -> EventCounters:
        own = np.flatnonzero(events.rows >= 0)
        if len(own) == 0:
            return self
        rows, items = np.unique(events.rows[own], return_inverse=True)
        liked = Liked(
            items=items,
            count=len(rows),
            times_ms=events.times_ms[own],
            weights=np.maximum(events.weights[own].astype(np.float64), 0),
        )
        counted = self.rule.count(self.columns.take(rows), liked, self.as_of_ms)
        return self._charted(self.columns.replaced(rows, counted), rows)

    def _charted(self, columns: OverlaidColumns, rows: Rows) -> EventCounters:
        """With `columns` that differ at `rows`."""
        if len(columns.rows) > max(_APART, _SHARE_APART * len(columns)):
            whole = columns.folded().whole
            return EventCounters.of(self.rule, whole, self.as_of_ms, above=self.above)
        scores = self.rule.score(columns.changed, self.as_of_ms)
        on_it = scores > self.above
        stale = self.chart.stale.copy()
        stale[rows] = True
        changed = Chart(scores[on_it], columns.rows[on_it])
        chart = OverlaidChart(self.chart.whole, stale, changed)
        return replace(self, columns=columns, chart=chart)


def _chart(scores: Floats, above: float) -> OverlaidChart:
    on_it = np.flatnonzero(scores > above)
    return OverlaidChart(
        Chart(scores[on_it], on_it),
        np.zeros(len(scores), np.bool_),
        Chart(scores[:0], on_it[:0]),
    )
