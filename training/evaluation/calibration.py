"""Probabilities from a ranker's scores, and how far they can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.metrics import log_loss

__all__ = ["METHOD", "PlattScale", "calibration_of"]

METHOD = (
    "The scores are log-odds under sampled negatives, so a line is fitted to them (Platt scaling) "
    "on one half of the users; the figures and bins are of the other half."
)

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

_BINS = 10
_STEPS = 50
_RIDGE = 1e-9  # keeps the Hessian invertible where all scores are equal


@dataclass(frozen=True, slots=True, kw_only=True)
class PlattScale:
    """probability = sigmoid(slope * score + intercept) (Platt 1999)."""

    slope: float
    intercept: float

    @staticmethod
    def fit(scores: Floats, liked: Booleans) -> PlattScale:
        """Maximum likelihood by Newton's method, with Platt's smoothed targets.

        Scores are standardised meanwhile, and a step is halved until it helps.
        """
        centre, spread = float(scores.mean()), float(scores.std()) or 1.0
        columns = np.ones((len(scores), 2))
        columns[:, 0] = (scores - centre) / spread
        positives, negatives = float(liked.sum()), float((~liked).sum())
        targets = np.where(liked, (positives + 1) / (positives + 2), 1 / (negatives + 2))
        weights = np.array([0.0, math.log((positives + 1) / (negatives + 1))])
        loss = _loss(columns @ weights, targets)
        for _ in range(_STEPS):
            said = _sigmoid(columns @ weights)
            gradient = columns.T @ (said - targets)
            curvature = (columns * (said * (1 - said))[:, None]).T @ columns
            step = np.linalg.solve(curvature + _RIDGE * np.eye(2), gradient).astype(np.float64)
            candidate, better = _descend(columns, targets, weights, step, loss)
            if loss - better <= 1e-9 * abs(loss):
                break
            weights, loss = candidate, better
        slope = float(weights[0]) / spread
        return PlattScale(slope=slope, intercept=float(weights[1]) - slope * centre)

    def probabilities(self, scores: Floats) -> Doubles:
        return _sigmoid(self.slope * scores.astype(np.float64) + self.intercept)


def calibration_of(scores: Floats, liked: Booleans, fitting: Booleans) -> dict[str, Any]:
    """Fit on the rows `fitting`, judge on the others: log loss, bins and calibration error.

    All are NaN, and there are no bins, unless both parts have both kinds of rows.
    """
    judged = ~fitting
    if not all(_both_kinds(liked[part]) for part in (fitting, judged)):
        nothing = dict.fromkeys(("log_loss", "log_loss_base_rate", "calibration_error"), math.nan)
        return {**nothing, "calibration": [], "calibration_method": METHOD}
    said = PlattScale.fit(scores[fitting], liked[fitting]).probabilities(scores[judged])
    happened = liked[judged]
    bins = _reliability(said, happened)
    rows = sum(one["candidates"] for one in bins)
    gaps = [abs(one["predicted"] - one["observed"]) * one["candidates"] for one in bins]
    return {
        "log_loss": log_loss(said, happened),
        "log_loss_base_rate": log_loss(np.full(len(said), liked[fitting].mean()), happened),
        "calibration": bins,
        "calibration_error": sum(gaps) / rows,
        "calibration_method": METHOD,
    }


def _reliability(said: Doubles, happened: Booleans) -> list[dict[str, float]]:
    """Bins of equal numbers of rows, by ascending probability; equal ones may share a bin's end."""
    order = np.argsort(said, kind="stable")
    return [
        {
            "predicted": float(said[part].mean()),
            "observed": float(happened[part].mean()),
            "candidates": len(part),
        }
        for part in np.array_split(order, _BINS)
        if len(part)
    ]


def _both_kinds(liked: Booleans) -> bool:
    return bool(liked.any() and not liked.all())


def _descend(
    columns: Doubles, targets: Doubles, weights: Doubles, step: Doubles, loss: float
) -> tuple[Doubles, float]:
    """The first of ever shorter steps that lowers the loss; where none does, no step."""
    for _ in range(20):
        candidate = weights - step
        better = _loss(columns @ candidate, targets)
        if better < loss:
            return candidate, better
        step = step / 2
    return weights, loss


def _loss(logits: Doubles, targets: Doubles) -> float:
    """Cross-entropy of soft targets, summed."""
    return float((np.logaddexp(0.0, logits) - targets * logits).sum())


def _sigmoid(logits: Doubles) -> Doubles:
    probabilities: Doubles = np.exp(-np.logaddexp(0.0, -logits))
    return probabilities
