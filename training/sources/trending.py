"""What is liked more of late than its own past explains: a Poisson z-score of the recent rate."""

from __future__ import annotations

from dataclasses import replace

from retrieval_svc.source_data import SharedData, SourceData
from retrieval_svc.sources.counters import TrendRule
from training.sources.base import (
    Absent,
    Floats,
    SourceLesson,
    TrainedSource,
    add_up,
    appeared_ms,
)
from training.sources.popular import begin_ms, decayed_weights

__all__ = ["scores_of", "train"]

NAME = "trending"
# Half-lives of "of late" and of "the past", in half-lives of popularity.
_RECENT, _PAST = 1 / 3, 4.0


def train(lesson: SourceLesson) -> TrainedSource | Absent:
    """Likes of late and of the past of each item; serving counts on from there."""
    if lesson.half_life_ms is None:
        return Absent(name=NAME, reason="the data has no times")
    if len(lesson.liked) == 0:
        return Absent(name=NAME, reason="no positive interactions")
    recent_life, past_life = lesson.half_life_ms * _RECENT, lesson.half_life_ms * _PAST
    events, items = lesson.dataset.events, lesson.dataset.n_items
    rows = events.item[lesson.liked]
    since_ms = appeared_ms(lesson.dataset, lesson.rows)
    columns = {
        "recent": add_up(rows, decayed_weights(lesson, recent_life), items),
        "past": add_up(rows, decayed_weights(lesson, past_life), items),
        "since_ms": since_ms,
    }
    rule = TrendRule(
        recent_ms=recent_life,
        past_ms=past_life,
        begin_ms=begin_ms(lesson),
        usual=float(events.weight[lesson.liked].mean()),
        rate_of_all=0.0,  # not known yet
    )
    _, past_time = rule.times(since_ms, lesson.as_of_ms)
    trained = TrainedSource(
        name=NAME,
        data=SourceData(columns=columns),
        shared=SharedData(
            settings={
                "as_of_ms": lesson.as_of_ms,
                "begin_ms": rule.begin_ms,
                "recent_half_life_ms": recent_life,
                "past_half_life_ms": past_life,
                "usual_weight": rule.usual,
                "rate_of_all": float(rule.before(columns).sum() / max(past_time.sum(), 1.0)),
            }
        ),
    )
    above = int((scores_of(trained) > 2).sum())
    return replace(trained, notes={"recent_half_life_ms": recent_life, "above_2": above})


def scores_of(trained: TrainedSource) -> Floats:
    """float32 [n_items]: standard deviations above what was to be expected."""
    settings = trained.shared.settings
    rule = TrendRule(
        recent_ms=settings["recent_half_life_ms"],
        past_ms=settings["past_half_life_ms"],
        begin_ms=settings["begin_ms"],
        usual=settings["usual_weight"],
        rate_of_all=settings["rate_of_all"],
    )
    return rule.score(trained.data.columns, settings["as_of_ms"])
