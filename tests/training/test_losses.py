from __future__ import annotations

import numpy as np
import pytest

from tests.training.lesson_groups import random_groups
from training.judging import weighted_auc, weighted_ndcg
from training.losses import ranking_loss
from training.metrics import auc

GROUPS = random_groups(requests=20)
LABELS = GROUPS.head_labels[..., 0]
SCORES = np.random.default_rng(3).normal(-2, 1, LABELS.shape)


def test_the_loss_worked_out_by_hand() -> None:
    scores = np.array([[1.0, 0.0, -1.0, 9.0]])
    labels, mass = np.array([[1, 0, 0, 1]], np.float32), np.array([[1, 1, 5, 0]], np.float32)
    powers = np.exp([1.0, 0.0, -1.0]) * [1, 1, 5]
    listwise = -np.log(np.e / powers.sum())
    log_loss = np.log1p(np.exp(-1.0)) + np.log(2.0) + 5 * np.log1p(np.exp(-1.0))
    assert ranking_loss(scores, labels, mass).mean == pytest.approx(listwise + log_loss)


def test_the_gradient_is_that_of_the_loss() -> None:
    loss = ranking_loss(SCORES, LABELS, GROUPS.mass)
    for place in ((0, 0), (3, 7), (4, 12), (6, 29)):
        step = np.zeros_like(SCORES)
        step[place] = 1e-5
        ahead, behind = (
            ranking_loss(SCORES + sign * step, LABELS, GROUPS.mass).mean for sign in (1, -1)
        )
        slope = (ahead - behind) / 2e-5 * len(SCORES)
        assert loss.gradient[place] == pytest.approx(slope, abs=1e-5)
    assert (loss.curvature >= 0).all()
    assert not loss.gradient[GROUPS.mass == 0].any()


def test_a_candidate_that_stands_for_three_counts_as_three() -> None:
    scores, labels = np.array([[1.0, 0.5]]), np.array([[1, 0]], np.float32)
    once = ranking_loss(scores, labels, np.array([[1, 3]], np.float32))
    thrice = ranking_loss(
        np.array([[1.0, 0.5, 0.5, 0.5]]),
        np.array([[1, 0, 0, 0]], np.float32),
        np.ones((1, 4), np.float32),
    )
    assert once.mean == pytest.approx(thrice.mean)
    assert once.gradient[0, 1] == pytest.approx(thrice.gradient[0, 1:].sum())


def test_requests_without_a_liked_candidate_teach_the_odds_only() -> None:
    loss = ranking_loss(SCORES, np.zeros_like(LABELS), GROUPS.mass)
    assert (loss.gradient[GROUPS.mass > 0] > 0).all()


def test_huge_scores_do_not_overflow() -> None:
    with np.errstate(over="ignore"):
        loss = ranking_loss(SCORES * 1e3, LABELS, GROUPS.mass)
    assert np.isfinite(loss.mean)
    assert np.isfinite(loss.gradient).all()


def test_auc_agrees_with_that_of_all_candidates_written_out() -> None:
    scores = np.round(SCORES, 1).astype(np.float32)
    liked = LABELS > 0
    times = GROUPS.mass.astype(int).ravel()
    written_out = auc(np.repeat(scores.ravel(), times), np.repeat(liked.ravel(), times))
    assert weighted_auc(scores, liked, GROUPS.mass) == pytest.approx(written_out)


def test_ndcg_worked_out_by_hand() -> None:
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], np.float32)
    gains = np.array([[0, 4, 1], [1, 0, 0], [0, 0, 0]], np.float32)
    mass = np.array([[2, 1, 1], [1, 1, 0], [1, 1, 1]], np.float32)
    first = (4 / np.log2(4) + 1 / np.log2(5)) / (4 + 1 / np.log2(3))
    second = 1 / np.log2(3)
    assert weighted_ndcg(scores, gains, mass) == pytest.approx((first + second) / 2)
