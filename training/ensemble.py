"""How much each ranker counts in the ensemble, learned on held-out users."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from ranking_svc.models import Outputs
from ranking_svc.models.ensemble import Mixture, mix
from training.groups import Groups
from training.judging import judge
from training.losses import ranking_loss
from training.rewards import Rewards

__all__ = ["fit_mixture", "mixed"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_STEPS = 100
_POINTS = 9  # of the way


def fit_mixture(outputs: Mapping[str, Floats], groups: Groups, rewards: Rewards) -> Mixture:
    """Weights of the models whose `outputs` on the requests are float32 [R, g, H (+ 1)].

    They minimise the loss that the models were trained on, which is convex in them. Of the way from
    the best model alone to there, the mixture is the point with the best nDCG@20.
    """
    names = list(outputs)
    logits = np.stack([outputs[name][..., : len(rewards.heads)] for name in names])  # [M, R, g, H]
    learned = _minimise(logits.astype(np.float64), groups, rewards)
    alone = [_alone(place, len(learned)) for place in range(len(names))]

    def ndcg(unknown: Doubles) -> float:
        mixture = _mixture(unknown, names, rewards)
        return judge(mixed(mixture, outputs, rewards), groups, rewards)["ndcg@20"]

    best = max(alone, key=ndcg)
    way = [best + part * (learned - best) for part in np.linspace(0, 1, _POINTS)]
    if not learned[: len(names)].any():  # no model knows anything: the end of the way is no order
        way.pop()
    return _mixture(max(way, key=ndcg), names, rewards)  # the first of equals


def _mixture(unknown: Doubles, names: list[str], rewards: Rewards) -> Mixture:
    weights, biases = unknown[: len(names)].tolist(), unknown[len(names) :].tolist()
    return Mixture(
        weights=dict(zip(names, weights, strict=True)),
        biases=dict(zip(rewards.heads, biases, strict=True)),
    )


def mixed(mixture: Mixture, outputs: Mapping[str, Floats], rewards: Rewards) -> Floats:
    """The mixture's outputs, of the shape that its models' have."""
    shape = next(iter(outputs.values())).shape[:2]
    heads = len(rewards.heads)
    flat = {
        name: Outputs.of_columns(one.reshape(-1, one.shape[2]), heads)
        for name, one in outputs.items()
    }
    return mix(mixture, rewards.heads, flat).columns.reshape(*shape, -1)


def _minimise(logits: Doubles, groups: Groups, rewards: Rewards) -> Doubles:
    """M weights and H biases."""
    models, requests, heads = logits.shape[0], logits.shape[1], logits.shape[3]

    def loss(unknown: Doubles) -> tuple[float, Doubles]:
        weights, biases = unknown[:models], unknown[models:]
        scores = np.tensordot(weights, logits, axes=1) + biases
        total, slope = 0.0, np.zeros_like(unknown)
        for head, share in enumerate(rewards.loss_shares):
            one = ranking_loss(scores[..., head], groups.head_labels[..., head], groups.mass)
            total += share * one.mean
            gradient = share * one.gradient / requests
            slope[:models] += np.tensordot(logits[..., head], gradient, axes=2)
            slope[models + head] = gradient.sum()
        return total, slope

    start = np.concatenate([np.full(models, 1 / models), np.zeros(heads)])
    bounds = [(0.0, None)] * models + [(None, None)] * heads
    done = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _STEPS}
    )
    return done.x


def _alone(place: int, size: int) -> Doubles:
    """The solution in which one model counts as it is."""
    unknown = np.zeros(size)
    unknown[place] = 1.0
    return unknown
