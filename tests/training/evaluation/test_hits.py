from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.hits import Hits
from training.metrics import ndcg, recall, reciprocal_rank

ITEMS = 300


@pytest.fixture
def lists() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.permutation(ITEMS).astype(np.int32)[: rng.integers(0, 150)] for _ in range(30)]


@pytest.fixture
def relevant() -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    sizes = rng.integers(1, 40, 30)
    return [np.sort(rng.choice(ITEMS, size, replace=False)).astype(np.int32) for size in sizes]


@pytest.mark.parametrize("k", [1, 10, 20, 100, 1000])
def test_figures_by_user_are_those_of_the_plain_measures(
    lists: list[np.ndarray], relevant: list[np.ndarray], k: int
) -> None:
    hits = Hits.of(lists, relevant, ITEMS)
    pairs = [(one.tolist(), set(mine.tolist())) for one, mine in zip(lists, relevant, strict=True)]
    np.testing.assert_allclose(hits.recall(k), [recall(*pair, k) for pair in pairs])
    np.testing.assert_allclose(hits.ndcg(k), [ndcg(*pair, k) for pair in pairs])
    np.testing.assert_allclose(hits.mrr(), [reciprocal_rank(*pair) for pair in pairs])


def test_conditional_figures_take_only_retrieved_items_for_relevant(
    lists: list[np.ndarray], relevant: list[np.ndarray]
) -> None:
    hits = Hits.of(lists, relevant, ITEMS)
    for user, (ranked, mine) in enumerate(zip(lists, relevant, strict=True)):
        retrieved = set(ranked.tolist()) & set(mine.tolist())
        if retrieved:
            assert hits.conditional_ndcg(20)[user] == pytest.approx(ndcg(ranked, retrieved, 20))
            assert hits.conditional_recall(20)[user] == pytest.approx(
                recall(ranked.tolist(), retrieved, 20)
            )
        else:
            assert np.isnan(hits.conditional_ndcg(20)[user])


def test_a_cohort_of_items_changes_what_is_relevant_and_not_the_places(
    lists: list[np.ndarray], relevant: list[np.ndarray]
) -> None:
    even = np.arange(ITEMS) % 2 == 0
    hits = Hits.of(lists, relevant, ITEMS).among(even)
    for user, (ranked, mine) in enumerate(zip(lists, relevant, strict=True)):
        wanted = {item for item in mine.tolist() if item % 2 == 0}
        expected = ndcg(ranked.tolist(), wanted, 20) if wanted else np.nan
        assert hits.ndcg(20)[user] == pytest.approx(expected, nan_ok=True)


def test_users_without_relevant_items_have_no_figures() -> None:
    nothing = np.empty(0, np.int32)
    hits = Hits.of([np.array([1, 2], np.int32)], [nothing], ITEMS)
    assert np.isnan([hits.recall(20)[0], hits.ndcg(20)[0], hits.mrr()[0]]).all()
