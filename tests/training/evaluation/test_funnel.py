from __future__ import annotations

import numpy as np
import pytest

from tests.training.evaluation.answered import answer_of, exam_of
from training.evaluation.bootstrap import Resamples
from training.evaluation.funnel import Funnel, shares_of
from training.evaluation.hits import Hits

SOURCES = ("one", "two")


def test_shares_count_items_by_who_proposed_them() -> None:
    lists = [np.array([[1, 1, 0], [1, 0, 1]], bool), np.array([[1], [0]], bool)]
    shares = shares_of(lists, SOURCES)
    assert shares["one"] == {"any": 0.75, "fractional": 0.625, "only": 0.5}
    assert shares["two"] == {"any": 0.5, "fractional": 0.375, "only": 0.25}


def test_shares_of_no_items_are_zero() -> None:
    assert shares_of([], SOURCES)["one"] == {"any": 0.0, "fractional": 0.0, "only": 0.0}


@pytest.fixture
def funnel() -> Funnel:
    """One user who likes 1, 2, 3 and 9; `one` finds 1 and 2, `two` finds 2 and 3; 3 is cut."""
    exam = exam_of(relevant=[1, 2, 3, 9])
    answer = answer_of(
        exam,
        found={"one": [1, 2, 5], "two": [2, 3, 6]},
        blended=[2, 1, 5, 6],
        without={"one": 2, "two": 1},
    )
    hits = Hits.of([answer.ranked("none")], [exam.relevant], 10)
    pages = [np.array([5, 2], np.int32)]
    return Funnel(sources=SOURCES, exams=[exam], answers=[answer], pages=pages, default=hits)


def test_relevant_items_are_followed_from_stage_to_stage(funnel: Funnel) -> None:
    found = funnel.figures(items=10, limit=4, resamples=Resamples(1, resamples=2, seed=0))
    stages = {stage["stage"]: stage for stage in found["stages"]}
    assert {name: stage["relevant"] for name, stage in stages.items()} == {
        "catalogue": 4,
        "proposed": 3,
        "blend": 2,
        "top_100": 2,
        "page": 1,
    }
    assert stages["proposed"]["items"] == 5
    assert stages["page"] == {"stage": "page", "items": 2.0, "relevant": 1, "share": 0.25}


def test_a_source_is_credited_with_what_only_it_finds_and_with_what_the_blend_would_lose(
    funnel: Funnel,
) -> None:
    found = funnel.figures(items=10, limit=4, resamples=Resamples(1, resamples=2, seed=0))
    assert found["recall"] == 0.5
    one, two = found["sources"]["one"], found["sources"]["two"]
    assert (one["hits"], one["unique_hits"], one["page_hits"]) == (2, 1, 1)
    assert (two["hits"], two["unique_hits"], two["page_hits"]) == (2, 1, 1)
    assert (one["recall_lost"], two["recall_lost"]) == (0.0, 0.25)
    assert (one["page_any"], two["page_any"]) == (1.0, 0.5)
    assert (one["page_fractional"], two["page_fractional"]) == (0.75, 0.25)
