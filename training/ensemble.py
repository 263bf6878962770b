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


def fit_mixture(outputs: Mapping[str, Floats], groups: Groups, rewards: Rewards) -> Mixture:
    """Weights of the models whose `outputs` on the requests are float32 [R, g, H (+ 1)].

    They minimise the loss that the models were trained on, which is convex in them. Where the best
    model alone has the better nDCG@20, the mixture is that model.
    """
    names = list(outputs)
    logits = np.stack([outputs[name][..., : len(rewards.heads)] for name in names])  # [M, R, g, H]
    found = _minimise(logits.astype(np.float64), groups, rewards)
    learned = Mixture(
        weights=dict(zip(names, found[: len(names)].tolist(), strict=True)),
        biases=dict(zip(rewards.heads, found[len(names) :].tolist(), strict=True)),
    )
    candidates = [learned, *(_alone(name, names, rewards) for name in names)]
    if not any(learned.weights.values()):
        candidates.remove(learned)

    def ndcg(mixture: Mixture) -> float:
        return judge(mixed(mixture, outputs, rewards), groups, rewards)["ndcg@20"]

    return max(candidates, key=ndcg)  # the first of equals


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


def _alone(name: str, names: list[str], rewards: Rewards) -> Mixture:
    return Mixture(
        weights={other: float(other == name) for other in names},
        biases=dict.fromkeys(rewards.heads, 0.0),
    )
