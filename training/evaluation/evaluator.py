"""The whole evaluation, step by step. `docs/evaluation.md` says what each figure is."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.artifacts import ArtifactStore
from shortlist.config import Config
from training.dataset import Dataset
from training.evaluation.answers import DEPTH, Answer, answer_to, random_list
from training.evaluation.bench import Bench, Rankers, Shards
from training.evaluation.bootstrap import Resamples
from training.evaluation.catalogue import Catalogue
from training.evaluation.cohorts import cohorts_of
from training.evaluation.cold_start import ColdStart
from training.evaluation.exams import Exam, exams_of, sample
from training.evaluation.funnel import Funnel
from training.evaluation.pages import served_pages
from training.evaluation.rankers import ranker_figures
from training.evaluation.retrieval import recall_curves, retrieval_of
from training.evaluation.systems import PAGE, Judge, comparisons
from training.evaluation.tradeoffs import Tradeoffs
from training.held_out import held_out_from
from training.windows import Window, test_window

__all__ = ["FORMAT", "evaluate"]

Rows = npt.NDArray[np.int32]
Progress = Callable[[str, int, int], None]
"""What is being done, how much of it is done, how much there is."""

FORMAT = 2
_RESAMPLES = 1000
_TRADEOFF_USERS = 500


def evaluate(
    workdir: Path,
    *,
    users: int = 2000,
    seed: int = 0,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Measure the current versions on at most `users` random users of the test part.

    The test part is what neither has learned from, see `training.held_out`. Every user counts, also
    those without a history. What a user has seen is neither recommended nor relevant. Writes
    `<workdir>/evaluation.json` and returns its content. Raises `ArtifactRefused` when the data set
    has no test part, and what opening artifacts raises.
    """
    config = Config.load(workdir / "shortlist.yaml")
    store = ArtifactStore(workdir / "artifacts")
    retrieval, ranking = store.open("retrieval"), store.open("ranking")
    dataset = held_out_from(workdir, config, retrieval, ranking)
    window = test_window(dataset)
    exams = exams_of(dataset, window, config, users=users, seed=seed)
    bench = Bench(
        config=config,
        shards=Shards(retrieval),
        rankers=Rankers(ranking, config.ranking),
    )
    evaluation = _Evaluation(workdir, dataset, window, exams, bench, seed, progress)
    result: dict[str, Any] = _plain(evaluation.run())
    text = json.dumps(result, indent=2, allow_nan=False)
    (workdir / "evaluation.json").write_text(text + "\n", "utf-8")
    return result


class _Evaluation:
    """Asks everything once, then computes figures of the answers."""

    def __init__(
        self,
        workdir: Path,
        dataset: Dataset,
        window: Window,
        exams: Sequence[Exam],
        bench: Bench,
        seed: int,
        progress: Progress,
    ) -> None:
        self._workdir, self._dataset, self._window = workdir, dataset, window
        self._exams, self._bench, self._seed = exams, bench, seed
        self._progress = progress
        self._catalogue = Catalogue.of(dataset, window, bench.shards.vectors)
        self._seconds: dict[str, float] = {}

    def run(self) -> dict[str, Any]:
        with self._timed("candidates and scores"):
            answers = self._answers()
        with self._timed("pages"):
            pages = self._pages()
        with self._timed("figures"):
            figures = self._figures(answers, pages)
        with self._timed("cold start"):
            cold_start = self._cold_start(answers, pages)
        with self._timed("trade-offs"):
            tradeoffs = self._tradeoffs(answers)
        return {
            **self._about(),
            **figures,
            "cold_start": cold_start,
            "tradeoffs": tradeoffs,
            "seconds": self._seconds,
        }

    def _answers(self) -> list[Answer]:
        answers, told = [], self._told("candidates and scores")
        for exam in self._exams:
            answers.append(answer_to(exam, self._bench, self._catalogue))
            told(len(answers), len(self._exams))
        return answers

    def _pages(self) -> list[Rows]:
        pages = served_pages(
            self._workdir,
            self._dataset,
            self._window,
            self._exams,
            self._bench.config,
            self._told("pages for held-out users"),
        )
        return asyncio.run(pages)

    def _figures(self, answers: Sequence[Answer], pages: Sequence[Rows]) -> dict[str, Any]:
        bench, exams = self._bench, self._exams
        sources = list(bench.quotas)
        lists = self._lists(answers, pages)
        judge = self._judge(exams)
        systems = {name: judge.system(rows) for name, rows in lists.items()}
        blend = systems["ranker:none"].hits
        found = {**{name: systems[name].hits for name in sources}, "blend": blend}
        funnel = Funnel(
            sources=sources,
            exams=exams,
            answers=answers,
            pages=pages,
            default=systems[f"ranker:{bench.rankers.default}"].hits,
        )
        hits = {name: system.hits for name, system in systems.items()}
        liked = [answer.liked for answer in answers]
        return {
            "systems": {name: judge.figures(system) for name, system in systems.items()},
            "comparisons": comparisons(
                systems, sources, [f"ranker:{name}" for name in bench.rankers.names], judge
            ),
            "retrieval": {
                name: retrieval_of(
                    one, lists["ranker:none" if name == "blend" else name], judge.resamples
                )
                for name, one in found.items()
            },
            "curves": recall_curves({**found, "page": systems["page"].hits}),
            "rankers": {
                name: ranker_figures(
                    [answer.scores[name] for answer in answers],
                    liked,
                    systems[f"ranker:{name}"].hits,
                    blend,
                    judge.resamples,
                )
                for name in bench.rankers.names
            },
            "cohorts": cohorts_of(
                hits, [exam.known_events for exam in exams], self._catalogue, judge.resamples
            ),
            "page_sources": funnel.page_shares(),
            "funnel": funnel.figures(
                items=len(self._catalogue),
                limit=bench.config.retrieval.candidates,
                resamples=judge.resamples,
            ),
        }

    def _lists(
        self, answers: Sequence[Answer], pages: Sequence[Rows]
    ) -> Mapping[str, Sequence[Rows]]:
        """Every system's list for every user; the page first."""
        rankers = self._bench.rankers
        ranked = {
            f"ranker:{name}": [answer.ranked(name) for answer in answers] for name in rankers.names
        }
        rest = ranked[f"ranker:{rankers.default}"]
        rng = np.random.default_rng(self._seed)
        return {
            "page": [_continued(page, after) for page, after in zip(pages, rest, strict=True)],
            **{name: [answer.found[name] for answer in answers] for name in self._bench.quotas},
            **ranked,
            "random": [random_list(exam, self._catalogue, rng) for exam in self._exams],
        }

    def _cold_start(self, answers: Sequence[Answer], pages: Sequence[Rows]) -> dict[str, Any]:
        cold = ColdStart(
            bench=self._bench,
            catalogue=self._catalogue,
            exams=self._exams,
            answers=answers,
            pages=pages,
            resamples=_RESAMPLES,
            seed=self._seed,
        )

        return {
            "users": cold.new_users(self._told("new users")),
            "items": cold.new_items(self._told("new items")),
            "both": cold.new_items(self._told("new items for new users"), new_users=True),
        }

    def _tradeoffs(self, answers: Sequence[Answer]) -> dict[str, Any]:
        chosen = sample(range(len(answers)), _TRADEOFF_USERS, self._seed)
        tradeoffs = Tradeoffs(
            bench=self._bench,
            answers=[answers[place] for place in chosen],
            judge=self._judge([self._exams[place] for place in chosen]),
            progress=self._told("trade-offs"),
        )
        return {"diversity": tradeoffs.diversity(), "freshness": tradeoffs.freshness()}

    def _judge(self, exams: Sequence[Exam]) -> Judge:
        return Judge(
            catalogue=self._catalogue,
            relevant=[exam.relevant for exam in exams],
            worth=[exam.worth for exam in exams],
            resamples=Resamples(len(exams), resamples=_RESAMPLES, seed=self._seed),
        )

    def _about(self) -> dict[str, Any]:
        dataset, bench = self._dataset, self._bench
        return {
            "format": FORMAT,
            "data": {
                "name": dataset.schema.name,
                "users": dataset.n_users,
                "items": dataset.n_items,
                "interactions": len(dataset.events),
                "has_time": dataset.has_time,
                "known_until_ms": self._window.as_of_ms if dataset.has_time else None,
            },
            "split": dataset.info.split_method,
            "versions": {"retrieval": bench.shards.version, "ranking": bench.rankers.version},
            "users": {
                "evaluated": len(self._exams),
                "without_history": sum(not exam.known_events for exam in self._exams),
            },
            "settings": {
                "seed": self._seed,
                "page_size": PAGE,
                "depth": DEPTH,
                "candidates": bench.config.retrieval.candidates,
                "diversity": bench.config.slate.diversity,
                "ranker": bench.rankers.default,
                "resamples": _RESAMPLES,
                "sources": list(bench.quotas),
                "rankers": list(bench.rankers.names),
                "absent_sources": dict(bench.shards.absent),
            },
        }

    def _told(self, what: str) -> Callable[[int, int], None]:
        return lambda done, total: self._progress(what, done, total)

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._seconds[what] = round(time.monotonic() - started, 1)


def _continued(page: Rows, ranked: Rows) -> Rows:
    """The page, then the ranker's order of what is not on it."""
    return np.concatenate([page, ranked[~np.isin(ranked, page)]])


def _plain(value: Any) -> Any:
    """For JSON: numpy's numbers as Python's, and null for what is not a number."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
