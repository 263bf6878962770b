from __future__ import annotations

import math

import numpy as np
import pytest

from training.evaluation.bootstrap import Resamples, mean_of


def test_the_interval_is_about_two_standard_errors_to_each_side() -> None:
    values = np.random.default_rng(0).normal(5, 2, 1500)
    low, high = Resamples(1500, resamples=1000, seed=0).interval(values)
    error = values.std() / math.sqrt(1500)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)


def test_users_without_a_value_do_not_count() -> None:
    values = np.random.default_rng(0).normal(5, 2, 400)
    gaps = np.insert(values, np.arange(0, 400, 2), np.nan)
    draws = Resamples(len(gaps), resamples=2000, seed=0)
    some = Resamples(400, resamples=2000, seed=1)
    assert mean_of(gaps) == pytest.approx(values.mean())
    assert draws.interval(gaps) == pytest.approx(some.interval(values), abs=0.05)


def test_differences_are_paired() -> None:
    """Two systems that move together differ for sure, however much users differ."""
    ours = np.random.default_rng(0).random(300)
    draws = Resamples(300, resamples=500, seed=0)
    assert draws.interval(ours - (ours - 0.01)) == pytest.approx([0.01, 0.01])


def test_where_nothing_is_known_there_is_no_interval() -> None:
    nothing = np.full(5, np.nan)
    assert np.isnan(Resamples(5, resamples=10, seed=0).interval(nothing)).all()
    assert math.isnan(mean_of(nothing))


def test_equal_seeds_draw_equal_intervals() -> None:
    values = np.random.default_rng(0).random(50)
    first, second = (Resamples(50, resamples=100, seed=7).interval(values) for _ in range(2))
    assert first == second
