"""The loss of all rankers in numpy, with its derivatives.

A listwise softmax orders the candidates of a request; a log loss keeps scores comparable over
requests (after Bai et al., "Regression Compatible Listwise Objectives", CIKM 2023). Both are per
liked candidate. Drawn candidates count as often as the proposed ones that they stand for
(`Groups.mass`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Loss", "ranking_loss"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """The loss of R requests with g candidates each, and how it changes with the scores."""

    mean: float  # over the requests
    gradient: Doubles  # float64 [R, g], of the sum over the requests
    curvature: Doubles  # float64 [R, g], positive; the diagonal of the Hessian


def ranking_loss(scores: npt.NDArray[Any], labels: Floats, mass: Floats) -> Loss:
    """The loss of `scores` [R, g], log odds, against binary `labels` [R, g]; mass 0 = padding."""
    liked = labels * mass
    positives = liked.sum(axis=1, keepdims=True)
    target = liked / np.maximum(positives, 1e-9)
    log_share = _log_share(scores, mass)
    share = (positives > 0) * np.exp(log_share) * mass
    listwise = -(target * log_share).sum(axis=1)
    weight = mass / np.maximum(positives, 1)
    chance = 1 / (1 + np.exp(-scores))
    pointwise = ((np.logaddexp(0, scores) - labels * scores) * weight).sum(axis=1)
    return Loss(
        mean=float((listwise + pointwise).mean()),
        gradient=share - target + (chance - labels) * weight,
        curvature=share * (1 - share) + chance * (1 - chance) * weight,
    )


def _log_share(scores: npt.NDArray[Any], mass: Floats) -> Doubles:
    """log softmax, [R, g], where each candidate counts `mass` times; 0 of padding."""
    there = mass > 0
    peak = np.where(there, scores, -np.inf).max(axis=1, keepdims=True)
    distance = np.where(there, scores - peak, 0.0)
    total = (mass * np.exp(distance)).sum(axis=1, keepdims=True)
    return np.where(there, distance - np.log(total), 0.0)
