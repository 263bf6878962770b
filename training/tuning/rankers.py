"""How good a ranker is on requests of users that it has not learned from."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import ray

from ranking_svc.features import FeatureSpec
from shortlist.artifacts import ArtifactStore
from shortlist.config import Config
from training.dataset import Dataset
from training.encoding import fit_encoders
from training.fitting import fit_network, fit_trees
from training.item_statistics import HalfLives
from training.rewards import Rewards
from training.teaching import Lesson, build_table, gather_lessons, shared_sources
from training.tuning.parts import Part, Values, with_values
from training.windows import backtest_window

__all__ = ["MEASURE", "RankerLessons", "RankerObjective", "ranker_lessons"]

MEASURE = "held_out_loss"  # of the ranking job's metrics; smaller is better


@dataclass(frozen=True, kw_only=True)
class RankerLessons:
    """What every trial learns from; both lie once in Ray's object store."""

    lesson: ray.ObjectRef
    groups: ray.ObjectRef


def ranker_lessons(workdir: Path, dataset: Dataset, config: Config, *, seed: int) -> RankerLessons:
    """What the `backtest` version proposes and users went on to like; needs a Ray session.

    Raises `ArtifactNotFound` before retrieval was trained, and `ArtifactRefused` when there is
    nothing to learn from.
    """
    backtest = ArtifactStore(workdir / "artifacts").open("backtest")
    past = backtest_window(dataset, seed=seed)
    half_lives, encoders = HalfLives.of(dataset, past.known), fit_encoders(dataset, past.known)
    lesson = Lesson(
        dataset=dataset,
        config=config,
        artifacts=str((workdir / "artifacts").resolve()),
        backtest=backtest.version,
        spec=FeatureSpec(
            sources=shared_sources(config, backtest, backtest),
            statistics=half_lives.statistics,
            has_time=dataset.has_time,
        ),
        encoders=encoders,
        rewards=Rewards.of(dataset, past.known, config.ranking),
        table=ray.get(build_table.remote(dataset, past, backtest, encoders, half_lives)),
        seed=seed,
    )
    ref = ray.put(lesson)
    return RankerLessons(lesson=ref, groups=ray.put(gather_lessons(lesson, ref, past)))


@dataclass(frozen=True, kw_only=True)
class RankerObjective:
    """Trains the ranker of a part with some values and measures it; runs in a worker."""

    part: Part
    lessons: RankerLessons

    def __call__(self, values: Values) -> float:
        """The loss on held-out requests. Raises `ArtifactRefused` where it cannot be trained."""
        lesson, groups = ray.get([self.lessons.lesson, self.lessons.groups])
        fit = fit_trees if self.part.name == "gbdt" else fit_network
        with tempfile.TemporaryDirectory() as folder:  # its engines are compared there, too
            fitted = fit(
                self.part.name,
                groups,
                lesson.builder(),
                lesson.rewards,
                with_values(self.part, lesson.config, values).ranking,
                Path(folder),
                seed=lesson.seed,
                progress=lambda *_: None,
            )
        return float(fitted.metrics[MEASURE])
