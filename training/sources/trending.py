"""What is liked more of late than its own past explains: a Poisson z-score of the recent rate."""

from __future__ import annotations

import math

import numpy as np

from retrieval_svc.source_data import SourceData
from training.sources.base import (
    NEVER,
    Absent,
    Doubles,
    SourceLesson,
    TrainedSource,
    add_up,
    appeared_ms,
)
from training.sources.popular import decayed_weights

__all__ = ["train"]

NAME = "trending"
# Half-lives of "of late" and of "the past", in half-lives of popularity.
_RECENT, _PAST = 1 / 3, 4.0
_PRIOR = 1.0  # recent spans that an item has had the rate of all, before anything is known
_LEAST_VARIANCE = 1.0  # an event: a single like of what nobody liked before is no trend


def train(lesson: SourceLesson) -> TrainedSource | Absent:
    """One score an item: standard deviations above what was to be expected."""
    if lesson.half_life_ms is None:
        return Absent(name=NAME, reason="the data has no times")
    if len(lesson.liked) == 0:
        return Absent(name=NAME, reason="no positive interactions")
    recent_life, past_life = lesson.half_life_ms * _RECENT, lesson.half_life_ms * _PAST
    recent = decayed_weights(lesson, recent_life)
    past = decayed_weights(lesson, past_life) - recent
    ages = _ages(lesson)
    recent_time = _decayed_time(ages, recent_life)
    past_time = _decayed_time(ages, past_life) - recent_time
    # In events of the usual weight, so that the variance of a count is about the count.
    events, items = lesson.dataset.events, lesson.dataset.n_items
    usual = float(events.weight[lesson.liked].mean())
    rows = events.item[lesson.liked]
    happened = add_up(rows, recent, items) / usual
    before = add_up(rows, past, items) / usual
    prior_time = _PRIOR * recent_life / math.log(2)
    rate_of_all = before.sum() / max(past_time.sum(), 1.0)
    rate = (before + prior_time * rate_of_all) / (past_time + prior_time)
    expected = rate * recent_time
    score = (happened - expected) / np.sqrt(expected + _LEAST_VARIANCE)
    return TrainedSource(
        name=NAME,
        data=SourceData(columns={"score": score.astype(np.float32)}),
        notes={"recent_half_life_ms": recent_life, "above_2": int((score > 2).sum())},
    )


def _ages(lesson: SourceLesson) -> Doubles:
    """Milliseconds that each item has been there within the data."""
    begin = int(lesson.dataset.events.time_ms[lesson.rows].min())
    since = appeared_ms(lesson.dataset, lesson.rows)
    since = np.where(since == NEVER, begin, np.clip(since, begin, lesson.as_of_ms))
    return (lesson.as_of_ms - since).astype(np.float64)


def _decayed_time(ages: Doubles, half_life: float) -> Doubles:
    """Integral of the decay over an item's life, in milliseconds."""
    return half_life / math.log(2) * (1 - 0.5 ** (ages / half_life))
