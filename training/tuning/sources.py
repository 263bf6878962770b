"""How good a source alone is for what users of the backtest did next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import ray

from retrieval_svc.index import BruteForceIndex
from retrieval_svc.rows import Allowed, Rows
from retrieval_svc.sources import SOURCES, SliceView, SourceQuery
from shortlist.config import Config
from shortlist.errors import ArtifactRefused
from shortlist.tiers import UserContext
from training.dataset import Dataset
from training.half_life import choose_half_life, recency_half_life
from training.lessons import moments, relevant_rows, users_at
from training.metrics import ndcg, recall
from training.sources import TRAINERS, Absent, SourceLesson, TrainedSource
from training.tuning.parts import Part, Values, with_values
from training.windows import Window, backtest_window

if TYPE_CHECKING:
    from training.two_tower import TwoTower

__all__ = ["MEASURES", "Exam", "SourceLessons", "SourceObjective", "source_lessons"]

_USERS = 1000
_DAY_MS = 86_400_000
_TOWER = "two_tower"

MEASURES: dict[str, tuple[Callable[[Sequence[int], frozenset[int], int], float], int]] = {
    "ndcg@20": (ndcg, 20),
    "ndcg@100": (ndcg, 100),
    "recall@100": (recall, 100),
    "recall@1000": (recall, 1000),
}
"""What a source may be tuned for: a measure and its depth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """A user of the backtest at the moment of the first thing to come."""

    user: UserContext  # with the whole history
    seen: Rows  # int64 [s], ascending: items that are not to be proposed
    relevant: frozenset[int]  # rows of items; not empty


Proposals = Callable[[Exam, int], Sequence[int]]
"""The best so many unseen rows for a user."""


@dataclass(frozen=True, kw_only=True)
class SourceLessons:
    """What every trial needs; lies once in Ray's object store."""

    dataset: Dataset
    window: Window
    config: Config
    exams: tuple[Exam, ...]
    measure: str  # a key of MEASURES
    seed: int


def source_lessons(dataset: Dataset, config: Config, *, measure: str, seed: int) -> SourceLessons:
    """At most a thousand users of the backtest. Raises `ArtifactRefused` when there is none."""
    window = backtest_window(dataset, seed=seed)
    exams = _exams(dataset, window, config, seed)
    if not exams:
        raise ArtifactRefused("nothing new and positive was held out before the test part")
    return SourceLessons(
        dataset=dataset, window=window, config=config, exams=exams, measure=measure, seed=seed
    )


def _exams(dataset: Dataset, window: Window, config: Config, seed: int) -> tuple[Exam, ...]:
    todo = moments(
        dataset,
        window,
        limit=_USERS,
        max_staleness_days=config.serving.staleness_days,
        seed=seed,
        first_only=True,
    )
    return tuple(
        Exam(
            user=user,
            seen=np.unique(dataset.events.item[moment.known]).astype(np.int64),
            relevant=relevant,
        )
        for moment, user in zip(todo, users_at(dataset, todo), strict=True)
        if (relevant := relevant_rows(dataset, moment))
    )


@dataclass(frozen=True, kw_only=True)
class SourceObjective:
    """Trains the source of a part with some values and measures it; runs in a worker."""

    part: Part
    lessons: ray.ObjectRef  # of SourceLessons

    def __call__(self, values: Values) -> float:
        """The mean measure over the users. Raises `ArtifactRefused` where it cannot be trained."""
        lessons: SourceLessons = ray.get(self.lessons)
        config = with_values(self.part, lessons.config, values)
        if self.part.name == _TOWER:
            return _best_epoch(lessons, config)
        return _score(lessons, _opened(_trained(self.part.name, lessons, config), lessons))


def _trained(name: str, lessons: SourceLessons, config: Config) -> TrainedSource:
    dataset, window = lessons.dataset, lessons.window
    trained = TRAINERS[name](
        SourceLesson(
            dataset=dataset,
            rows=window.known,
            as_of_ms=window.as_of_ms,
            config=config.retrieval,
            half_life_ms=_half_life_ms(name, lessons, config),
            seed=lessons.seed,
        )
    )
    if isinstance(trained, Absent):
        raise ArtifactRefused(f"{trained.name}: {trained.reason}")
    return trained


def _half_life_ms(name: str, lessons: SourceLessons, config: Config) -> float | None:
    """Only the popular source asks: for the others any will do."""
    if name != "popular":
        return recency_half_life(lessons.dataset, lessons.window.known)
    return choose_half_life(lessons.dataset, lessons.window, config.retrieval, seed=lessons.seed)


def _opened(trained: TrainedSource, lessons: SourceLessons) -> Proposals:
    """The source as it serves, over the whole catalogue as one slice with an exact index."""
    keys = lessons.dataset.item_keys
    nowhere = Path("nowhere")  # a folder without an index
    view = SliceView(
        source=trained.name,
        keys=keys,
        vectors=np.empty((len(keys), 0), np.float32),
        watermark_ms=lessons.window.as_of_ms,
        data=trained.data,
        shared=trained.shared,
        slice_folder=nowhere,
        artifact=nowhere,
        siblings={},
    )
    source = SOURCES[trained.name].open(view)

    def propose(exam: Exam, k: int) -> Sequence[int]:
        rows, _ = source.propose(SourceQuery(user=exam.user, allowed=Allowed(exclude=exam.seen)), k)
        return rows.tolist()

    return propose


def _best_epoch(lessons: SourceLessons, config: Config) -> float:
    """The measure after the epoch with which training would end."""
    from training.two_tower import train_two_tower  # TensorFlow: in a worker only

    scores = [0.0]

    def judge(model: TwoTower) -> float:
        scores.append(_score(lessons, _nearest(model)))
        return scores[-1]

    train_two_tower(
        lessons.dataset,
        lessons.window.known,
        config.retrieval.two_tower,
        recency_half_life_ms=recency_half_life(lessons.dataset, lessons.window.known),
        seed=lessons.seed,
        judge=judge,
    )
    return max(scores)


def _nearest(model: TwoTower) -> Proposals:
    index = BruteForceIndex(model.item_vectors)

    def propose(exam: Exam, k: int) -> Sequence[int]:
        rows, _ = index.search(model.encoder.encode(exam.user), k, Allowed(exclude=exam.seen))
        return rows.tolist()

    return propose


def _score(lessons: SourceLessons, propose: Proposals) -> float:
    measure, depth = MEASURES[lessons.measure]
    gains = [measure(propose(exam, depth), exam.relevant, depth) for exam in lessons.exams]
    return float(np.mean(gains))
