"""How good a ranker's order of held-out requests is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ranking_svc.models import Outputs, combine
from training.groups import Groups
from training.losses import ranking_loss
from training.rewards import Rewards

__all__ = ["heads_loss", "judge", "ndcg_by_user"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_DEPTH = 20


def judge(outputs: Floats, groups: Groups, rewards: Rewards) -> dict[str, float]:
    """Loss, nDCG@20 and AUC over requests of `outputs` float32 [R, g, H (+ 1)].

    Drawn candidates count as often as the proposed ones that they stand for, so that the figures
    estimate those over all candidates.
    """
    scores = _scores(outputs, rewards)
    return {
        "held_out_loss": heads_loss(outputs, groups, rewards),
        f"ndcg@{_DEPTH}": weighted_ndcg(scores, groups.labels, groups.mass),
        "auc": weighted_auc(scores, groups.labels > 0, groups.mass),
    }


def ndcg_by_user(outputs: Floats, groups: Groups, rewards: Rewards) -> Doubles:
    """Mean nDCG@20 of each user's requests with a gain, estimated as by `judge`.

    Requests of one user are alike: users are what there are independent answers of.
    """
    some, found = _ndcg_by_request(_scores(outputs, rewards), groups.labels, groups.mass)
    _, place = np.unique(groups.user[some], return_inverse=True)
    return np.bincount(place, weights=found) / np.bincount(place)


def _scores(outputs: Floats, rewards: Rewards) -> Floats:
    """float32 [R, g]"""
    requests, size, columns = outputs.shape
    flat = Outputs.of_columns(outputs.reshape(-1, columns), len(rewards.heads))
    return combine(flat, rewards.heads, rewards.worth).reshape(requests, size)


def heads_loss(outputs: Floats, groups: Groups, rewards: Rewards) -> float:
    """The heads' losses by their shares."""
    losses = [
        ranking_loss(outputs[..., head].astype(np.float64), labels, groups.mass).mean
        for head, labels in enumerate(np.moveaxis(groups.head_labels, 2, 0))
    ]
    return float(rewards.loss_shares @ losses)


def weighted_ndcg(scores: Floats, gains: Floats, mass: Floats) -> float:
    """Mean nDCG@20 of the requests with a gain; all arrays are [R, g]."""
    _, found = _ndcg_by_request(scores, gains, mass)
    return float(found.mean()) if len(found) else 0.0


def _ndcg_by_request(
    scores: Floats, gains: Floats, mass: Floats
) -> tuple[npt.NDArray[np.bool_], Doubles]:
    """Which requests have a gain, bool [R], and nDCG@20 of these."""
    best = _gain(scores, gains, mass)
    ideal = _gain(gains, gains, mass)
    some = ideal > 0
    return some, best[some] / ideal[some]


def _gain(order_by: Floats, gains: Floats, mass: Floats) -> npt.NDArray[np.float64]:
    """Discounted gain of the first 20 of each request when ordered by a column, [R]."""
    order = np.argsort(np.where(mass > 0, -order_by, np.inf), axis=1, kind="stable")
    gains, mass = (np.take_along_axis(one, order, axis=1) for one in (gains, mass))
    rank = np.cumsum(mass, axis=1) - mass
    discount = np.where(rank < _DEPTH, 1 / np.log2(rank + 2.0), 0.0)
    return (gains * mass * discount).sum(axis=1)


def weighted_auc(scores: Floats, liked: npt.NDArray[np.bool_], mass: Floats) -> float:
    """Chance that a liked candidate of any request scores above another; ties count half."""
    _, place = np.unique(scores, return_inverse=True)
    place, weights = place.ravel(), mass.ravel().astype(np.float64)
    others = np.bincount(place, weights * ~liked.ravel())
    below = np.cumsum(others) - others / 2
    positives = weights * liked.ravel()
    pairs = positives.sum() * others.sum()
    return float((below[place] * positives).sum() / pairs) if pairs else 0.5
