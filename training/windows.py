"""Which interactions a model learns from, and which it is asked to predict.

A ranker must learn on candidates of a retrieval model that has not seen the clicks it is asked to
predict, exactly as it will be served. So retrieval is trained twice: once on everything but the
newest part (the *backtest*, whose candidates and labels the ranker learns from), and once on
everything before the test part (the version that serves).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.dataset import Dataset

__all__ = ["Window", "backtest_window", "serving_window", "test_window"]

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Rows of `Dataset.events`: what is known, and what happens next."""

    known: Rows  # ascending
    next: Rows  # ascending; empty for the serving window
    as_of_ms: int  # the moment between the two; 0 when the data has no time


def serving_window(dataset: Dataset) -> Window:
    """Everything before the test part."""
    known = dataset.rows_of_split("train", "validation")
    return Window(known=known, next=np.empty(0, np.int64), as_of_ms=_end_of(dataset, known))


def test_window(dataset: Dataset) -> Window:
    """Everything before the test part, and the test part."""
    known = dataset.rows_of_split("train", "validation")
    upcoming = dataset.rows_of_split("test")
    return Window(known=known, next=upcoming, as_of_ms=_end_of(dataset, known))


def backtest_window(dataset: Dataset, *, seed: int = 0) -> Window:
    """The ranker's lesson: never a row of the test part.

    What happens next is the validation part; where there is none, the newest tenth, or a random one
    of data without times. It should reach about as far beyond what is known as the model will be
    asked to look when it serves.
    """
    rows = dataset.rows_of_split("train", "validation")
    upcoming = np.isin(rows, dataset.rows_of_split("validation"))
    if not upcoming.any():
        upcoming = _a_tenth(dataset, len(rows), seed)
    known = rows[~upcoming]
    return Window(known=known, next=rows[upcoming], as_of_ms=_end_of(dataset, known))


def _a_tenth(dataset: Dataset, rows: int, seed: int) -> npt.NDArray[np.bool_]:
    """Which of so many rows, which stand in order of time, to hold out."""
    if dataset.has_time:
        return np.arange(rows) >= 0.9 * rows
    return np.random.default_rng(seed).random(rows) < 0.1


def _end_of(dataset: Dataset, rows: Rows) -> int:
    """The newest time of `rows`; 0 without times."""
    return int(dataset.events.time_ms[rows].max()) if dataset.has_time and len(rows) else 0
