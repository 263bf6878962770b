from __future__ import annotations

import numpy as np
import pytest

from tests.training.evaluation.answered import exam_of
from tests.training.tiny import DAY_MS, tiny_dataset
from training.evaluation.answers import DEPTH, random_list
from training.evaluation.catalogue import Catalogue
from training.windows import test_window as window_of


@pytest.fixture
def catalogue() -> Catalogue:
    """Item 0 is known best; 3 was published and never touched; of 4 only the future knows."""
    dataset = tiny_dataset(
        [0, 1, 2, 0, 1, 0],
        [0, 0, 0, 1, 2, 4],
        items=6,
        time_ms=[DAY_MS * day for day in (1, 2, 3, 4, 5, 9)],
        split=["train", "train", "train", "train", "train", "test"],
        published_ms=[None, None, None, 3 * DAY_MS, None, None],
    )
    vectors = np.eye(6, dtype=np.float32)
    return Catalogue.of(dataset, window_of(dataset), vectors)


def test_an_item_without_known_interactions_is_cold_whatever_the_test_part_holds(
    catalogue: Catalogue,
) -> None:
    assert catalogue.known.tolist() == [3, 1, 1, 0, 0, 0]
    assert catalogue.cold.tolist() == [False, False, False, True, True, True]


def test_the_head_is_the_fifth_with_the_most_interactions(catalogue: Catalogue) -> None:
    assert np.flatnonzero(catalogue.head).tolist() == [0]


def test_the_age_is_counted_from_the_end_of_what_is_known(catalogue: Catalogue) -> None:
    expected = [4.0, 1.0, 0.0, 2.0, np.nan, np.nan]
    assert catalogue.age_days.tolist() == pytest.approx(expected, nan_ok=True)


def test_random_lists_hold_unseen_items_once(catalogue: Catalogue) -> None:
    exam = exam_of([1], known_events=2)  # has seen the keys 0 and 1
    by_row = Catalogue(
        keys=np.arange(3000, dtype=np.uint64),
        vectors=catalogue.vectors,
        known=np.zeros(3000, np.int64),
        first_ms=np.zeros(3000, np.int64),
        as_of_ms=0,
    )
    drawn = random_list(exam, by_row, np.random.default_rng(0))
    assert len(drawn) == len(np.unique(drawn)) == DEPTH
    assert not np.isin(drawn, [0, 1]).any()
