"""Taken apart, the system answers as it does when it serves."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ranking_svc.ranker import RankerGeneration
from shortlist.artifacts import ArtifactStore
from shortlist.config import Config
from shortlist.errors import TierUnavailable
from shortlist.tiers import ScoreQuery
from training.dataset import Dataset
from training.evaluation.answers import answer_to
from training.evaluation.bench import Bench, Rankers, Scored, Shards
from training.evaluation.catalogue import Catalogue
from training.evaluation.exams import Exam, exams_of
from training.evaluation.pages import served_pages
from training.evaluation.systems import PAGE
from training.windows import test_window as window_of


@dataclass(frozen=True, kw_only=True)
class Taken:
    dataset: Dataset
    config: Config
    bench: Bench
    catalogue: Catalogue
    exams: list[Exam]


@pytest.fixture(scope="module")
def apart(workdir: Path) -> Taken:
    dataset, config = Dataset.load(workdir / "dataset"), Config.load(workdir / "shortlist.yaml")
    store = ArtifactStore(workdir / "artifacts")
    shards = Shards(store.open("retrieval"))
    window = window_of(dataset)
    return Taken(
        dataset=dataset,
        config=config,
        bench=Bench(
            config=config,
            shards=shards,
            rankers=Rankers(store.open("ranking"), config.ranking),
        ),
        catalogue=Catalogue.of(dataset, window, shards.vectors),
        exams=exams_of(dataset, window, config, users=25, seed=0),
    )


def test_its_parts_make_the_pages_that_the_embedded_system_serves(
    apart: Taken, workdir: Path
) -> None:
    window = window_of(apart.dataset)
    served = asyncio.run(
        served_pages(workdir, apart.dataset, window, apart.exams, apart.config, lambda *_: None)
    )
    assert len(served) > 10
    for exam, page in zip(apart.exams, served, strict=True):
        answer = answer_to(exam, apart.bench, apart.catalogue)
        scored = Scored(
            keys=apart.catalogue.keys[answer.blended],
            scores=answer.scores[apart.bench.rankers.default],
            sources=answer.sources,
        )
        places = apart.bench.page(scored, PAGE, apart.bench.rules)
        assert answer.blended[places].tolist() == page.tolist()


def test_rankers_that_share_their_answers_score_as_each_alone(apart: Taken, workdir: Path) -> None:
    alone = RankerGeneration.open(
        ArtifactStore(workdir / "artifacts").open("ranking"), apart.config.ranking
    )
    for exam in apart.exams[:4]:
        proposals = apart.bench.shards.ask(exam.user, apart.bench.quotas, exam.seen)
        _, candidates = apart.bench.blend(proposals)
        together = apart.bench.rankers.score(exam.user, candidates)
        assert set(together) == set(alone.models)
        for name, scores in together.items():
            query = ScoreQuery(request_id="test", user=exam.user, candidates=candidates, model=name)
            np.testing.assert_array_equal(scores, alone.score(query).scores)


def test_lists_go_deeper_than_the_quotas_and_the_blend_does_not(apart: Taken) -> None:
    """`content` has a quota of 5."""
    exam = max(apart.exams, key=lambda one: one.known_events)
    answer = answer_to(exam, apart.bench, apart.catalogue)
    place = list(apart.bench.quotas).index("content")
    assert len(answer.found["content"]) > 5 >= answer.sources[place].sum()


def test_who_proposed_a_page_is_found_in_the_pages_order(apart: Taken) -> None:
    answer = answer_to(apart.exams[0], apart.bench, apart.catalogue)
    backwards = answer.blended[::-1]
    np.testing.assert_array_equal(answer.sources_of(backwards), answer.sources[:, ::-1])


def test_a_source_that_fails_ends_the_evaluation(apart: Taken) -> None:
    exam = apart.exams[0]
    with pytest.raises(TierUnavailable, match="no_such_source"):
        apart.bench.shards.ask(exam.user, {"no_such_source": 5}, exam.seen)
