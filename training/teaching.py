"""Where the rankers' lessons come from: teachers that ask the backtest version, one a core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from ranking_svc.features import FeatureBuilder, FeatureSpec, ItemTable
from shortlist.artifacts import Artifact, ArtifactStore
from shortlist.config import Config
from shortlist.errors import ArtifactRefused
from training.dataset import Dataset
from training.encoding import Encoders
from training.groups import Groups
from training.item_statistics import HalfLives, build_item_table
from training.lessons import Moment, Proposer, lessons, moments, with_strangers
from training.ray_session import cores_of_the_cluster, new_board, wait_for
from training.rewards import Rewards
from training.shards import read_slices, sources_of
from training.windows import Window

__all__ = ["Lesson", "build_table", "gather_lessons", "shared_sources"]

_MOST_NUMBERS = 150_000_000  # float32 features of all lessons, which lie in memory
_MOMENTS_A_CALL = 100
_LEAST_IN_COMMON = 0.5  # share of the items that a retrieval version and the data both have


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What every task of a job needs; lies once in Ray's object store."""

    dataset: Dataset
    config: Config
    artifacts: str
    backtest: str  # version
    spec: FeatureSpec
    encoders: Encoders
    rewards: Rewards
    table: ItemTable  # as of the backtest
    seed: int

    def builder(self, table: ItemTable | None = None) -> FeatureBuilder:
        encoders = self.encoders
        return FeatureBuilder(
            self.spec, table or self.table, encoders.item, encoders.user, encoders.context
        )


def shared_sources(config: Config, retrieval: Artifact, backtest: Artifact) -> tuple[str, ...]:
    """The sources that will serve and that lessons can show."""
    shown = set(sources_of(backtest)) & config.retrieval.asked.keys()
    return tuple(name for name in sources_of(retrieval) if name in shown)


@ray.remote(num_cpus=1)
def build_table(
    dataset: Dataset, window: Window, artifact: Artifact, encoders: Encoders, half_lives: HalfLives
) -> ItemTable:
    return build_item_table(
        dataset,
        window.known,
        window.as_of_ms,
        vectors=_vectors_of(dataset, artifact),
        encoder=encoders.item,
        half_lives=half_lives,
    )


def _vectors_of(dataset: Dataset, artifact: Artifact) -> npt.NDArray[np.float32]:
    """The vectors of a retrieval version for the items of the data set, float32 [n_items, dim].

    Items that are newer than the version have none, only zeros, as when serving meets them.
    """
    whole = read_slices(artifact)
    known = np.isin(dataset.item_keys, whole.keys)
    if np.count_nonzero(known) < _LEAST_IN_COMMON * max(len(known), len(whole.keys)):
        raise ArtifactRefused(
            f"{artifact.tier} {artifact.version} was trained on another catalogue than the "
            "data set's; train retrieval again"
        )
    vectors = np.zeros((len(known), whole.vectors.shape[1]), np.float32)
    vectors[known] = whole.vectors[np.searchsorted(whole.keys, dataset.item_keys[known])]
    return vectors


def gather_lessons(lesson: Lesson, lesson_ref: ray.ObjectRef, window: Window) -> Groups:
    """Groups of all moments, made by one teacher a core."""
    config = lesson.config.ranking
    numbers = config.group_size * len(lesson.builder().names)
    most = min(config.requests, _MOST_NUMBERS // numbers)
    todo = moments(
        lesson.dataset,
        window,
        limit=round(most * (1 - config.strangers)),  # leaves room for those that are made up
        max_staleness_days=lesson.config.serving.staleness_days,
        seed=lesson.seed,
    )
    todo = with_strangers(todo, config.strangers, lesson.seed)
    board = new_board()
    chunks = [todo[at : at + _MOMENTS_A_CALL] for at in range(0, len(todo), _MOMENTS_A_CALL)]
    cores = cores_of_the_cluster()
    actor = ray.remote(num_cpus=1)(_Teacher)
    teachers = [actor.remote(lesson_ref, board) for _ in range(min(cores, len(chunks)))]
    done = [
        teachers[place % len(teachers)].teach.remote(chunk, place, len(chunks))
        for place, chunk in enumerate(chunks)
    ]
    parts = [part for part in wait_for(done, board, "train") if part is not None]
    if not parts:
        raise ArtifactRefused("retrieval proposed none of the items that users went on to like")
    return Groups.concatenate(parts)  # the teachers end with this function, and free their cores


class _Teacher:
    """An actor that holds the backtest's retrieval version, verified and opened once a core."""

    def __init__(self, lesson: Lesson, board: Any) -> None:
        self._lesson, self._board = lesson, board
        self._builder = lesson.builder()
        store = ArtifactStore(lesson.artifacts)
        self._proposer = Proposer.open(store, "backtest", lesson.backtest, lesson.config)

    def teach(self, chunk: list[Moment], place: int, chunks: int) -> Groups | None:
        lesson = self._lesson
        groups = lessons(
            lesson.dataset,
            chunk,
            self._proposer,
            self._builder,
            lesson.config,
            lesson.rewards,
            seed=lesson.seed + place,
        )
        ray.get(self._board.report.remote("ranker lessons", place + 1, chunks))
        return groups
