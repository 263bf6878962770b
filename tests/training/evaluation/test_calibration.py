from __future__ import annotations

import math

import numpy as np
import pytest

from training.evaluation.calibration import PlattScale, calibration_of
from training.metrics import log_loss


def drawn(
    seed: int, rows: int, slope: float, intercept: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, the true probabilities, and what came of them."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(3, 4, rows).astype(np.float32)
    truth = 1 / (1 + np.exp(-(slope * scores + intercept)))
    return scores, truth, rng.random(rows) < truth


def test_the_line_that_made_the_labels_is_found_again() -> None:
    scores, _, liked = drawn(0, 60_000, 0.5, -4.0)
    found = PlattScale.fit(scores, liked)
    assert found.slope == pytest.approx(0.5, abs=0.02)
    assert found.intercept == pytest.approx(-4.0, abs=0.1)


def test_scores_that_separate_perfectly_still_give_finite_probabilities() -> None:
    scores = np.linspace(-1, 1, 200).astype(np.float32)
    said = PlattScale.fit(scores, scores > 0).probabilities(scores)
    assert np.isfinite(said).all()
    assert log_loss(said, scores > 0) < 0.1


def test_equal_scores_say_the_base_rate() -> None:
    liked = np.arange(1000) % 10 == 0
    said = PlattScale.fit(np.zeros(1000, np.float32), liked).probabilities(np.zeros(1, np.float32))
    assert said[0] == pytest.approx(0.1, abs=0.002)


def test_after_scaling_what_is_predicted_is_what_happens() -> None:
    scores, truth, liked = drawn(1, 40_000, 0.4, -3.0)
    fitting = np.arange(40_000) < 20_000
    found = calibration_of(scores, liked, fitting)
    bins = found["calibration"]
    assert sum(one["candidates"] for one in bins) == 20_000
    for one in bins:
        assert one["predicted"] == pytest.approx(one["observed"], abs=0.03)
    assert found["calibration_error"] == pytest.approx(0, abs=0.01)
    assert found["log_loss"] == pytest.approx(log_loss(truth[~fitting], liked[~fitting]), abs=0.002)
    assert found["log_loss"] < found["log_loss_base_rate"]


def test_bins_are_of_the_half_that_was_not_fitted() -> None:
    scores, _, liked = drawn(2, 1000, 0.5, 0.0)
    fitting = np.arange(1000) < 600
    found = calibration_of(scores, liked, fitting)
    assert sum(one["candidates"] for one in found["calibration"]) == 400


def test_without_positives_nothing_is_said() -> None:
    found = calibration_of(np.ones(4, np.float32), np.zeros(4, bool), np.arange(4) < 2)
    assert found["calibration"] == []
    assert math.isnan(found["log_loss"])
