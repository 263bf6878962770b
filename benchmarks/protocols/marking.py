"""Puts the questions of a protocol to the trained system, through the code that serves.

Sources answer through the shards' `Generation.retrieve`, pages come from the embedded orchestrator
over the same artifacts. Each of a few processes takes a share of the users, one thread each.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.protocols.exams import Exam, RatingExam
from benchmarks.protocols.measures import MEASURES
from benchmarks.protocols.protocol import Metric
from orchestrator.blend import blend
from orchestrator.embedded import embedded
from orchestrator.fanout import merge_sources
from orchestrator.pipeline import Recommender
from ranking_svc.ranker import RankerGeneration
from retrieval_svc.generation import Generation
from retrieval_svc.slice_files import RetrievalMeta
from shortlist.artifacts import ArtifactStore
from shortlist.config import Config
from shortlist.errors import TierUnavailable
from shortlist.page import DegradationReason, Page, PageRequest, Ranking, RankRequest
from shortlist.stores import Profile
from shortlist.stores.memory import MemoryProfileStore
from shortlist.tiers import RetrieveQuery, ScoreQuery, UserContext
from training.dataset import Dataset
from training.metrics import auc

__all__ = ["mark_rankings", "mark_ratings"]

Marks = dict[str, dict[str, list[float]]]  # system -> metric -> one value a user
Progress = Callable[[int, int], None]
Keys = npt.NDArray[np.uint64]
E = TypeVar("E", Exam, RatingExam)
R = TypeVar("R")

_PATIENCE_MS = 600_000
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_LOOK_S = 0.5


def mark_rankings(
    workdir: Path,
    exams: Sequence[Exam],
    metrics: tuple[Metric, ...],
    *,
    rankers: bool,
    processes: int,
    progress: Progress,
) -> dict[str, dict[str, float]]:
    """Mean of each metric by system: every source alone, `blend`, and `page`; with `rankers` also
    every ranker's own order of the blend's candidates as `ranker:<name>`.

    Raises `TierUnavailable` when a page lacks a part of the system, and what opening artifacts
    raises.
    """
    task = _RankingTask(workdir=workdir, metrics=metrics, rankers=rankers)
    shares = _in_parallel(_mark_rankings, task, exams, processes, progress)
    return {
        system: {
            metric.name: math.fsum(
                value for share in shares for value in share[system][metric.name]
            )
            / len(exams)
            for metric in metrics
        }
        for system in shares[0]
    }


def mark_ratings(
    workdir: Path, exams: Sequence[RatingExam], *, processes: int, progress: Progress
) -> dict[str, dict[str, float]]:
    """AUC over all rated items of all users: of the default ranker as `page`, and of every arm that
    is configured by its name. Raises as `mark_rankings`."""
    shares = _in_parallel(_mark_ratings, workdir, exams, processes, progress)
    liked = np.concatenate([share.liked for share in shares])
    return {
        system: {"auc": auc(np.concatenate([share.scores[system] for share in shares]), liked)}
        for system in shares[0].scores
    }


# --- processes ---

_done: Synchronized[int]  # exams that this run has marked, over all processes


def _in_parallel(
    work: Callable[[Any, Sequence[E]], R],
    task: Any,
    exams: Sequence[E],
    processes: int,
    progress: Progress,
) -> list[R]:
    """What `work(task, share)` returns for each share of the exams, every process one share."""
    shares = [share for at in range(processes) if (share := exams[at::processes])]
    context = get_context("spawn")  # a fork would copy threads of whatever runs here
    done = context.Value("L", 0)
    with (
        _one_thread_a_process(),
        ProcessPoolExecutor(
            len(shares), mp_context=context, initializer=_count_in, initargs=(done,)
        ) as pool,
    ):
        running = [pool.submit(work, task, share) for share in shares]
        pending = set(running)
        while pending:
            finished, pending = wait(pending, timeout=_LOOK_S, return_when=FIRST_EXCEPTION)
            progress(done.value, len(exams))
            for one in finished:
                one.result()
        return [one.result() for one in running]


def _count_in(done: Synchronized[int]) -> None:
    global _done
    _done = done


def _count_one() -> None:
    with _done.get_lock():
        _done.value += 1


@contextlib.contextmanager
def _one_thread_a_process() -> Iterator[None]:
    """Libraries of processes that start now compute with one thread."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# --- full rankings ---


@dataclass(frozen=True, kw_only=True)
class _RankingTask:
    workdir: Path
    metrics: tuple[Metric, ...]
    rankers: bool

    @property
    def depth(self) -> int:
        return max(metric.k for metric in self.metrics)


def _mark_rankings(task: _RankingTask, exams: Sequence[Exam]) -> Marks:
    return asyncio.run(_mark_rankings_of(task, exams))


async def _mark_rankings_of(task: _RankingTask, exams: Sequence[Exam]) -> Marks:
    dataset = Dataset.load(task.workdir / "dataset")
    config = Config.load(task.workdir / "shortlist.yaml")
    stages = _Stages.open(task, config)
    marks: Marks = {}
    async with await _recommender(task.workdir, exams, config) as recommender:
        for exam in exams:
            lists = {
                name: np.searchsorted(dataset.item_keys, keys).tolist()
                for name, keys in stages.lists(exam.user).items()
            }
            lists["page"] = await _page(recommender, exam, task.depth, dataset)
            for system, ranked in lists.items():
                of_system = marks.setdefault(system, {})
                for metric in task.metrics:
                    value = MEASURES[metric.measure](ranked, exam.relevant, metric.k)
                    of_system.setdefault(metric.name, []).append(value)
            _count_one()
    return marks


class _Stages:
    """The stages of a page one by one, over the artifacts that serve."""

    def __init__(
        self,
        shards: Sequence[Generation],
        ranker: RankerGeneration | None,
        config: Config,
        depth: int,
    ) -> None:
        self._shards, self._ranker, self._config, self._depth = shards, ranker, config, depth
        offered = shards[0].sources
        self._quotas = {
            source: max(quota, depth)
            for source, quota in config.retrieval.asked.items()
            if source in offered
        }

    @staticmethod
    def open(task: _RankingTask, config: Config) -> _Stages:
        store = ArtifactStore(task.workdir / "artifacts")
        artifact = store.open("retrieval")
        numbers = range(RetrievalMeta.of(artifact).shards)
        shards = [Generation.open(artifact, number) for number in numbers]
        ranker = None
        if task.rankers:
            ranker = RankerGeneration.open(store.open("ranking"), config.ranking)
        return _Stages(shards, ranker, config, task.depth)

    def lists(self, user: UserContext) -> dict[str, Keys]:
        """The first items of every stage's own order, by stage."""
        served = replace(user, history=user.history.last(self._config.serving.history_length))
        query = RetrieveQuery(
            request_id="published",
            user=served,
            quotas=self._quotas,
            exclude=np.unique(user.history.keys),
        )
        slices = [shard.retrieve(query) for shard in self._shards]
        if failures := [failure for one in slices for failure in one.failures]:
            raise TierUnavailable(f"a source to measure failed: {failures}")
        proposals = merge_sources(slices, self._quotas)
        retrieval = self._config.retrieval
        _, candidates = blend(proposals, retrieval.candidates, retrieval.guaranteed)
        lists = {one.source: one.keys for one in proposals} | {"blend": candidates.keys}
        if self._ranker is not None:
            for model in self._ranker.models:
                query_of = ScoreQuery(
                    request_id="published", user=served, candidates=candidates, model=model
                )
                order = np.lexsort((candidates.keys, -self._ranker.score(query_of).scores))
                lists[f"ranker:{model}"] = candidates.keys[order]
        return {name: keys[: self._depth] for name, keys in lists.items()}


async def _page(recommender: Recommender, exam: Exam, size: int, dataset: Dataset) -> Sequence[int]:
    """The served page, as item rows."""
    page = await recommender.recommend(
        PageRequest(
            user_id=exam.user_id,
            page_size=size,
            context=exam.user.context,
            time_ms=exam.user.time_ms,
        )
    )
    _refuse_degraded(page)
    rows = (dataset.item_row(item.id) for item in page.items)
    return [row for row in rows if row is not None]


# --- ratings ---


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """One row a rated item."""

    liked: npt.NDArray[np.bool_]
    scores: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)  # by system


def _mark_ratings(workdir: Path, exams: Sequence[RatingExam]) -> _Judged:
    return asyncio.run(_mark_ratings_of(workdir, exams))


async def _mark_ratings_of(workdir: Path, exams: Sequence[RatingExam]) -> _Judged:
    config = Config.load(workdir / "shortlist.yaml")
    scores: dict[str, list[float]] = {"page": [], **{arm: [] for arm in config.ranking.arms}}
    async with await _recommender(workdir, exams, config) as recommender:
        for exam in exams:
            for system, of_system in scores.items():
                arm = "" if system == "page" else system
                of_system += await _scores(recommender, exam, arm)
            _count_one()
    return _Judged(
        liked=np.concatenate([exam.liked for exam in exams]),
        scores={system: np.array(values, np.float32) for system, values in scores.items()},
    )


async def _scores(recommender: Recommender, exam: RatingExam, arm: str) -> list[float]:
    """The ranker's score of each item of the exam, in the exam's order."""
    ranking = await recommender.rank(
        RankRequest(
            item_ids=exam.item_ids,
            user_id=exam.user_id,
            context=exam.user.context,
            time_ms=exam.user.time_ms,
            arm=arm,
        )
    )
    _refuse_degraded(ranking)
    score_of = {item.id: item.score for item in ranking.items}
    return [score_of[item_id] for item_id in exam.item_ids]


# --- the recommender ---


async def _recommender(
    workdir: Path, exams: Iterable[Exam | RatingExam], config: Config
) -> Recommender:
    """The whole system in this process, which knows of the users what the exams say is known."""
    length = config.serving.history_length
    profiles = MemoryProfileStore(
        (
            exam.user_id,
            Profile(
                user_key=exam.user.user_key,
                history=exam.user.history.last(length),
                seen=np.unique(exam.user.history.keys),
                attributes=exam.user.attributes,
            ),
        )
        for exam in exams
    )
    return await embedded(workdir, profiles=profiles, config=_unhurried(config))


def _unhurried(config: Config) -> Config:
    """The same system with all the time it needs: a busy machine must not change a measurement."""
    budgets = ("retrieval", "ranking", "describe", "request")
    patience = {f"{name}_budget_ms": _PATIENCE_MS for name in budgets}
    return config.model_copy(update={"serving": config.serving.model_copy(update=patience)})


def _refuse_degraded(answer: Page | Ranking) -> None:
    """An answer without some part says nothing of the whole; a catalogue may be small, though."""
    small = DegradationReason.PAGE_UNDERFILLED
    if lost := [one for one in answer.degradations if one.reason != small]:
        raise TierUnavailable(f"an answer to measure is degraded: {lost}")
