from __future__ import annotations

import math

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, Qrel, R, ScoredDoc, nDCG

from training.metrics import (
    auc,
    catalogue_coverage,
    gini,
    intra_list_diversity,
    log_loss,
    ndcg,
    recall,
    reciprocal_rank,
    self_information,
)


def test_recall_is_the_share_of_relevant_items_that_were_found() -> None:
    assert recall([5, 1, 9, 2], {1, 2, 3}, 2) == pytest.approx(1 / 3)
    assert recall([5, 1, 9, 2], {1, 2, 3}, 4) == pytest.approx(2 / 3)
    assert recall([5], {1}, 10) == 0
    assert recall([], {1}, 10) == 0


def test_ndcg_of_a_list_worked_out_by_hand() -> None:
    # Hits on places 1 and 3 of three relevant items: (1 + 1/2) / (1 + 1/log2(3) + 1/2).
    ideal = 1 + 1 / math.log2(3) + 0.5
    assert ndcg([7, 0, 8], {7, 8, 9}, 3) == pytest.approx(1.5 / ideal)


def test_ndcg_is_one_for_a_perfect_list_and_zero_for_one_without_hits() -> None:
    assert ndcg([1, 2], {1, 2}, 20) == pytest.approx(1)
    assert ndcg([3, 4], {1, 2}, 20) == 0
    # More relevant items than places: the ideal list has only k places.
    assert ndcg([1, 2], set(range(50)), 2) == pytest.approx(1)


def test_ndcg_looks_at_the_first_k_only() -> None:
    assert ndcg([0, 0, 1], {1}, 2) == 0


def test_auc_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.4, 0.1], np.float32)
    liked = np.array([True, False, True, False])
    # Pairs: (.9 > .8), (.9 > .1), (.4 < .8), (.4 > .1).
    assert auc(scores, liked) == pytest.approx(3 / 4)


def test_ties_count_half_in_auc() -> None:
    assert auc(np.array([1, 1], np.float32), np.array([True, False])) == 0.5
    assert auc(np.full(9, 2, np.float32), np.arange(9) < 4) == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_what_a_loop_over_all_pairs_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 15, 120).astype(np.float32)  # many ties
    liked = rng.random(120) < 0.2
    wins = [
        1.0 if mine > other else 0.5 if mine == other else 0.0
        for mine in scores[liked]
        for other in scores[~liked]
    ]
    assert auc(scores, liked) == pytest.approx(np.mean(wins))


def test_auc_without_both_kinds_is_not_a_number() -> None:
    assert math.isnan(auc(np.ones(3, np.float32), np.ones(3, bool)))
    assert math.isnan(auc(np.ones(3, np.float32), np.zeros(3, bool)))
    assert math.isnan(auc(np.empty(0, np.float32), np.empty(0, bool)))


def test_coverage_counts_every_item_once() -> None:
    assert catalogue_coverage([[1, 2], [2, 3], []], 10) == pytest.approx(0.3)


def test_diversity_is_the_mean_over_all_pairs() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, 6))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    ranked = [3, 8, 1, 22, 17]
    pairs = [
        1 - float(vectors[a] @ vectors[b]) for n, a in enumerate(ranked) for b in ranked[n + 1 :]
    ]
    assert intra_list_diversity(ranked, vectors) == pytest.approx(np.mean(pairs), abs=1e-6)


def test_diversity_of_equal_and_of_opposite_items() -> None:
    vectors = np.array([[1, 0], [1, 0], [-1, 0]], np.float32)
    assert intra_list_diversity([0, 1], vectors) == pytest.approx(0)
    assert intra_list_diversity([0, 2], vectors) == pytest.approx(2)
    assert math.isnan(intra_list_diversity([0], vectors))
    assert math.isnan(intra_list_diversity([], vectors))


@pytest.mark.parametrize("seed", range(3))
def test_ranking_measures_agree_with_ir_measures(seed: int) -> None:
    measures = [*(nDCG @ k for k in (10, 20, 100)), *(R @ k for k in (20, 100)), RR]
    runs, judged = _random_runs(seed, users=40)
    scored = [
        ScoredDoc(str(user), str(item), -float(place))
        for user, ranked in enumerate(runs)
        for place, item in enumerate(ranked)
    ]
    qrels = [Qrel(str(user), str(item), 1) for user, mine in enumerate(judged) for item in mine]
    theirs = {
        (int(one.query_id), str(one.measure)): one.value
        for one in ir_measures.iter_calc(measures, qrels, scored)
    }

    for user, (ranked, mine) in enumerate(zip(runs, judged, strict=True)):
        ours = {
            **{f"nDCG@{k}": ndcg(ranked, mine, k) for k in (10, 20, 100)},
            **{f"R@{k}": recall(ranked, mine, k) for k in (20, 100)},
            "RR": reciprocal_rank(ranked, mine),
        }
        assert ours == pytest.approx({name: theirs[user, name] for name in ours}, abs=1e-9)


def _random_runs(seed: int, users: int) -> tuple[list[list[int]], list[set[int]]]:
    """Lists of 200 of 400 items, and relevant items of which some are on no list."""
    rng = np.random.default_rng(seed)
    runs = [rng.permutation(400)[:200].tolist() for _ in range(users)]
    sizes = rng.integers(1, 60, users)
    judged = [set(rng.choice(400, size, replace=False).tolist()) for size in sizes]
    return runs, judged


def test_reciprocal_rank_is_of_the_first_hit() -> None:
    assert reciprocal_rank([4, 7, 8], {7, 8}) == 0.5
    assert reciprocal_rank([4, 7, 8], {1}) == 0


def test_gini_is_zero_for_equals_and_almost_one_when_one_has_all() -> None:
    assert gini(np.array([3, 3, 3, 3])) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(3 / 4)
    # Half of the mean absolute difference of all pairs, over the mean.
    counts = np.array([1, 2, 5, 0, 9])
    gaps = np.abs(counts[:, None] - counts[None]).mean()
    assert gini(counts) == pytest.approx(gaps / (2 * counts.mean()))
    assert math.isnan(gini(np.zeros(3, np.int64)))


def test_novelty_is_higher_for_what_is_rare_and_finite_for_what_is_unknown() -> None:
    information = self_information(np.array([7, 1, 0]))
    assert information.tolist() == pytest.approx([-math.log2(n / 11) for n in (8, 2, 1)])


def test_log_loss_by_hand() -> None:
    said, happened = np.array([0.9, 0.2]), np.array([True, False])
    assert log_loss(said, happened) == pytest.approx(-(math.log(0.9) + math.log(0.8)) / 2)
    assert math.isfinite(log_loss(np.array([0.0]), np.array([True])))
