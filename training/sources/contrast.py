"""How far a taste in content should point away from what any item is like.

Rocchio's method (1971): towards the mean of what is liked, away from the mean of all there is. All
films are alike in being films, and what is liked is often just what there is most of; but where
what is new differs from the catalogue, pointing away from it leads astray. So the data decides, on
items that the taste has not seen: the newest ones, or, where there are no times, some drawn at
random.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from retrieval_svc.sources.content import ContentTaste
from retrieval_svc.sources.history import Recency
from training.histories import user_histories
from training.item_statistics import decayed_counts
from training.metrics import ndcg
from training.sources.base import Doubles, Floats, Rows, SourceLesson

__all__ = ["choose_contrast", "taste_with"]

_CONTRASTS = (0.0, 0.25, 0.5, 0.75, 1.0)
_HELD_OUT = 0.1  # of the likes, the newest: about what comes next; of the items without times
_MOST_USERS, _FEWEST_USERS = 500, 20
_DEPTH = 20


def taste_with(contrast: float, lesson: SourceLesson, vectors: Floats) -> ContentTaste:
    """Tastes of users, and of whom nothing is known of, by what the lesson knows.

    `vectors` are of all items, float32 [n_items, d], unit length or zero.
    """
    known = vectors.any(axis=1)
    typical = contrast * vectors[known].mean(axis=0)
    counts = decayed_counts(lesson.dataset, lesson.rows, lesson.as_of_ms, lesson.half_life_ms)
    counts *= known
    likes = counts.sum()
    return ContentTaste(
        Recency(
            events=lesson.history["history"],
            half_life_events=lesson.history["half_life_events"],
        ),
        lesson.dataset.item_keys[known],
        vectors[known],
        everybody=_unit(counts @ vectors / likes - typical) if likes > 0 else None,
        typical=typical,
    )


def choose_contrast(lesson: SourceLesson, vectors: Floats) -> float:
    """The share of the catalogue's mean to take off a taste; 0 where the data cannot say."""
    if len(lesson.liked) == 0:
        return 0.0
    known, items = _known_and_new(lesson)
    events, wanted = lesson.dataset.events, np.zeros(lesson.dataset.n_items, np.bool_)
    wanted[items] = True
    asked = lesson.liked[wanted[events.item[lesson.liked]]]
    rng = np.random.default_rng(lesson.seed)
    users = np.sort(rng.permutation(np.unique(events.user[asked]))[:_MOST_USERS])
    if len(users) < _FEWEST_USERS or not vectors[items].any():
        return 0.0
    as_of_ms = int(events.time_ms[known].max()) if lesson.dataset.has_time else 0
    before = replace(lesson, rows=known, as_of_ms=as_of_ms)
    histories = user_histories(lesson.dataset, known, users)
    places = {int(item): place for place, item in enumerate(items)}
    relevant: list[set[int]] = [set() for _ in users]
    for row in asked[np.isin(events.user[asked], users)]:
        relevant[int(np.searchsorted(users, events.user[row]))].add(places[int(events.item[row])])

    def gain(contrast: float) -> float:
        taste = taste_with(contrast, before, vectors)
        gains = []
        for history, mine in zip(histories, relevant, strict=True):
            direction = taste.of(history)
            if direction is not None:
                order = np.argsort(-(vectors[items] @ direction), kind="stable")[:_DEPTH]
                gains.append(ndcg(order.tolist(), mine, _DEPTH))
        return float(np.mean(gains)) if gains else 0.0

    return max(_CONTRASTS, key=gain)


def _known_and_new(lesson: SourceLesson) -> tuple[Rows, Rows]:
    """Rows that a taste is made of, and the items that none of them is about."""
    events, rows = lesson.dataset.events, lesson.rows
    if lesson.dataset.has_time:
        known = rows[
            events.time_ms[rows] <= np.quantile(events.time_ms[lesson.liked], 1 - _HELD_OUT)
        ]
    else:
        rng = np.random.default_rng((lesson.seed, 1))
        out = rng.random(lesson.dataset.n_items) < _HELD_OUT
        known = rows[~out[events.item[rows]]]
    met = np.bincount(events.item[known], minlength=lesson.dataset.n_items)
    return known, np.flatnonzero(met == 0)


def _unit(vector: Doubles) -> Floats | None:
    length = float(np.linalg.norm(vector))
    return (vector / length).astype(np.float32) if length > 1e-9 else None
