"""How good the trained system is on the held-out part, measured on what is served.

The page comes from the embedded orchestrator itself, with the histories that were known before the
held-out part; the baselines are the top of single sources of the same retrieval version.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.embedded import embedded
from ranking_svc.ranker import RankerGeneration
from shortlist.artifacts import ArtifactStore
from shortlist.config import Config
from shortlist.errors import ArtifactRefused, TierUnavailable
from shortlist.page import DegradationReason, Page, PageRequest
from shortlist.stores.memory import MemoryProfileStore
from shortlist.tiers import Candidates, ScoreQuery, UserContext
from training.dataset import Dataset
from training.histories import user_attributes
from training.lessons import Moment, Proposer, labels_of, moments, relevant_rows, user_at
from training.metrics import auc, catalogue_coverage, intra_list_diversity, ndcg, recall
from training.profiles import profiles_of
from training.retrieval import read_slices
from training.windows import Window, test_window

__all__ = ["evaluate"]

Progress = Callable[[int, int], None]

_PAGE = 20
_DEPTH = 1000
_CUTOFFS = (20, 100, 1000)
_PATIENCE_MS = 600_000
SYSTEMS = ("popularity", "two_tower", "page")
RETRIEVERS = ("popularity", "two_tower", "blend")
_SOURCE_OF = {"popularity": "popular", "two_tower": "two_tower"}


def evaluate(
    workdir: Path,
    *,
    users: int = 2000,
    seed: int = 0,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Measure the current versions on at most `users` random users of the test part.

    Every user counts, also those without a history. What a user has seen is neither recommended
    nor relevant. Writes `<workdir>/evaluation.json` and returns its content. Raises
    `ArtifactRefused` when the data set has no test part, and what opening artifacts raises.
    """
    dataset = Dataset.load(workdir / "dataset")
    config = Config.load(workdir / "shortlist.yaml")
    window = test_window(dataset)
    exams = _exams(dataset, window, config, users, seed)
    if not exams:
        raise ArtifactRefused("the data set has no test part to evaluate on; see schema `split`")
    store = ArtifactStore(workdir / "artifacts")
    retrieval, ranking = store.open("retrieval"), store.open("ranking")
    candidates = _Candidates(dataset, config, store, retrieval.version)
    ranker = RankerGeneration.open(ranking, config.ranking.engine)
    pages = asyncio.run(_pages(workdir, dataset, window, exams, config, progress))
    lists: dict[str, list[Sequence[int]]] = {name: [] for name in (*SYSTEMS, *RETRIEVERS)}
    judged = []
    for exam, page in zip(exams, pages, strict=True):
        found, blended = candidates.of(exam.user)
        for name, rows in found.items():
            lists[name].append(rows)
        lists["page"].append(page)
        judged.append(_judge(ranker, exam, blended, dataset, config.serving.history_length))
    result = {
        "systems": _measure_systems(lists, exams, read_slices(retrieval).vectors),
        "retrieval": {
            name: {f"recall@{k}": _mean(recall, lists[name], exams, k) for k in _CUTOFFS}
            for name in RETRIEVERS
        },
        "ranker": {"auc": _pooled_auc(judged), "engine": config.ranking.engine},
        "users": {
            "evaluated": len(exams),
            "without_history": sum(1 for exam in exams if not len(exam.user.history)),
        },
        "split": dataset.info.split_method,
        "versions": {"retrieval": retrieval.version, "ranking": ranking.version},
    }
    (workdir / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exam:
    """A test user: what is known of the user, and what the user did next."""

    user_id: str
    user: UserContext  # with the whole history
    relevant: frozenset[int]  # item rows, liked in the test part and not seen before
    moment: Moment


def _exams(dataset: Dataset, window: Window, config: Config, users: int, seed: int) -> list[_Exam]:
    staleness = config.serving.max_staleness_days
    todo = moments(
        dataset, window, limit=users, max_staleness_days=staleness, seed=seed, first_only=True
    )
    attributes = user_attributes(dataset, [moment.user for moment in todo])
    exams = []
    for moment, about in zip(todo, attributes, strict=True):
        if relevant := relevant_rows(dataset, moment):
            exams.append(
                _Exam(
                    user_id=dataset.user_ids[moment.user].as_py(),
                    user=user_at(dataset, moment, about),
                    relevant=relevant,
                    moment=moment,
                )
            )
    return exams


class _Candidates:
    """What retrieval finds for a user: each source alone, and blended as served."""

    def __init__(
        self, dataset: Dataset, config: Config, store: ArtifactStore, version: str
    ) -> None:
        self._keys = dataset.item_keys
        self._blended = Proposer.open(store, "retrieval", version, config)

    def of(self, user: UserContext) -> tuple[Mapping[str, Sequence[int]], Candidates]:
        """Item rows by retriever, and the blended candidates."""
        alone = self._blended.sources(user, dict.fromkeys(_SOURCE_OF.values(), _DEPTH))
        blended = self._blended.propose(user)
        found = {name: self._rows(alone[source].keys) for name, source in _SOURCE_OF.items()}
        return found | {"blend": self._rows(blended.keys)}, blended

    def _rows(self, keys: npt.NDArray[np.uint64]) -> Sequence[int]:
        rows: list[int] = np.searchsorted(self._keys, keys).tolist()
        return rows


async def _pages(
    workdir: Path,
    dataset: Dataset,
    window: Window,
    exams: Sequence[_Exam],
    config: Config,
    progress: Progress,
) -> list[Sequence[int]]:
    """The served page of every test user, as item rows."""
    profiles = MemoryProfileStore(
        profiles_of(dataset, history_length=config.serving.history_length, rows=window.known)
    )
    recommender = await embedded(workdir, profiles=profiles, config=_unhurried(config))
    pages: list[Sequence[int]] = []
    async with recommender:
        for exam in exams:
            page = await recommender.recommend(
                PageRequest(
                    user_id=exam.user_id,
                    page_size=_PAGE,
                    context=exam.user.context,
                    time_ms=exam.user.time_ms,
                )
            )
            _refuse_degraded(page)
            rows = [dataset.item_row(item.id) for item in page.items]
            pages.append([row for row in rows if row is not None])
            progress(len(pages), len(exams))
    return pages


def _unhurried(config: Config) -> Config:
    """The same system with all the time it needs: a busy machine must not change a measurement."""
    budgets = ("retrieval", "ranking", "describe", "request")
    patience = {f"{name}_budget_ms": _PATIENCE_MS for name in budgets}
    return config.model_copy(update={"serving": config.serving.model_copy(update=patience)})


def _refuse_degraded(page: Page) -> None:
    """A page without some part says nothing of the whole; a catalogue may be small, though."""
    lost = [one for one in page.degradations if one.reason != DegradationReason.PAGE_UNDERFILLED]
    if lost:
        raise TierUnavailable(f"a page to evaluate is degraded: {lost}")


def _judge(
    ranker: RankerGeneration,
    exam: _Exam,
    candidates: Candidates,
    dataset: Dataset,
    history_length: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """The scores that serving gives a user's candidates, and which of them the user liked."""
    served = replace(exam.user, history=exam.user.history.last(history_length))
    query = ScoreQuery(request_id="evaluate", user=served, candidates=candidates)
    return ranker.score(query).scores, labels_of(dataset, exam.moment, candidates) > 0


def _pooled_auc(
    judged: Sequence[tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]],
) -> float:
    scores, liked = zip(*judged, strict=True)
    return auc(np.concatenate(scores), np.concatenate(liked))


def _measure_systems(
    lists: Mapping[str, Sequence[Sequence[int]]],
    exams: Sequence[_Exam],
    vectors: npt.NDArray[np.float32],
) -> dict[str, dict[str, float]]:
    measured = {}
    for name in SYSTEMS:
        pages = [ranked[:_PAGE] for ranked in lists[name]]
        measured[name] = {
            f"recall@{_PAGE}": _mean(recall, pages, exams, _PAGE),
            f"ndcg@{_PAGE}": _mean(ndcg, pages, exams, _PAGE),
            "coverage": catalogue_coverage(pages, len(vectors)),
            "intra_list_diversity": float(
                np.nanmean([intra_list_diversity(page, vectors) for page in pages])
            ),
        }
    return measured


def _mean(
    measure: Callable[[Sequence[int], frozenset[int], int], float],
    lists: Sequence[Sequence[int]],
    exams: Sequence[_Exam],
    k: int,
) -> float:
    values = [measure(ranked, exam.relevant, k) for ranked, exam in zip(lists, exams, strict=True)]
    return float(np.mean(values))
