from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.bootstrap import Resamples
from training.evaluation.catalogue import Catalogue
from training.evaluation.systems import Judge, comparisons, mean_over, pages_of
from training.metrics import catalogue_coverage, gini, intra_list_diversity, self_information

ITEMS, USERS = 60, 12


@pytest.fixture
def judge() -> Judge:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(ITEMS, 6))
    return Judge(
        catalogue=Catalogue(
            keys=np.arange(ITEMS, dtype=np.uint64),
            vectors=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32),
            known=rng.integers(0, 30, ITEMS),
            first_ms=np.zeros(ITEMS, np.int64),
            as_of_ms=0,
        ),
        relevant=[np.sort(rng.choice(ITEMS, 4, replace=False)).astype(np.int32)] * USERS,
        worth=[np.array([1.0, 5.0, 0.0, 2.0])] * USERS,
        resamples=Resamples(USERS, resamples=50, seed=0),
    )


@pytest.fixture
def lists() -> list[np.ndarray]:
    """The first is empty, the second has one item."""
    rng = np.random.default_rng(1)
    full = [rng.permutation(ITEMS).astype(np.int32)[:40] for _ in range(USERS - 2)]
    return [np.empty(0, np.int32), np.array([5], np.int32), *full]


def test_the_value_of_a_page_is_the_declared_worth_of_all_that_came_of_it(
    judge: Judge, lists: list[np.ndarray]
) -> None:
    of_item = dict(zip(judge.relevant[0].tolist(), judge.worth[0].tolist(), strict=True))
    values = [sum(of_item.get(item, 0.0) for item in one[:20].tolist()) for one in lists]
    assert max(values) > 0
    figures = judge.figures(judge.system(lists))
    assert figures["value@20"] == pytest.approx(np.mean(values))
    lower, upper = figures["ci"]["value@20"]
    assert lower <= figures["value@20"] <= upper


def test_figures_of_pages_are_those_of_the_plain_measures(
    judge: Judge, lists: list[np.ndarray]
) -> None:
    figures = judge.figures(judge.system(lists))
    pages = [one[:20].tolist() for one in lists]
    diversity = [intra_list_diversity(page, judge.catalogue.vectors) for page in pages]
    information = self_information(judge.catalogue.known)
    novelty = [information[page].mean() for page in pages if page]
    counts = np.bincount(np.concatenate(pages).astype(int), minlength=ITEMS)
    assert figures["diversity"] == pytest.approx(np.nanmean(diversity), abs=1e-6)
    assert figures["novelty"] == pytest.approx(np.mean(novelty))
    assert figures["coverage"] == pytest.approx(catalogue_coverage(pages, ITEMS))
    assert figures["gini"] == pytest.approx(gini(counts))
    assert set(figures["ci"]) == set(figures) - {"ci", "coverage", "gini"}


def test_pages_are_padded_where_lists_are_short(lists: list[np.ndarray]) -> None:
    pages = pages_of(lists)
    assert pages.shape == (USERS, 20)
    assert pages[1].tolist() == [5, *[-1] * 19]


def test_a_mean_over_pages_leaves_out_what_is_unknown() -> None:
    column = np.array([1.0, np.nan, 5.0])
    pages = np.array([[0, 1, 2], [1, -1, -1]], np.int32)
    assert mean_over(column, pages).tolist() == pytest.approx([3.0, np.nan], nan_ok=True)


def test_the_best_rivals_are_those_with_the_best_ndcg(
    judge: Judge, lists: list[np.ndarray]
) -> None:
    relevant = judge.relevant[0]
    perfect = [relevant] * USERS
    late = [np.concatenate([np.setdiff1d(np.arange(9), relevant), relevant])] * USERS
    systems = {
        name: judge.system([one.astype(np.int32) for one in rows])
        for name, rows in {
            "page": perfect,
            "mf": lists,
            "content": late,
            "ranker:none": late,
        }.items()
    }
    found = comparisons(systems, ["mf", "content"], ["ranker:none"], judge)
    assert (found["best_source"], found["best_ranker"]) == ("content", "ranker:none")
    gap = found["page_minus"]["content"]["ndcg@20"]
    assert gap["difference"] > 0
    # All users are alike.
    assert gap["ci"] == pytest.approx([gap["difference"]] * 2, abs=1e-6)
    assert "page" not in found["page_minus"]
