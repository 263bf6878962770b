from __future__ import annotations

import numpy as np
import pytest

from shortlist.config import Config
from shortlist.errors import ArtifactRefused
from tests.training.evaluation.answered import exam_of
from tests.training.tiny import DAY_MS, tiny_dataset
from training.dataset import Dataset
from training.evaluation.exams import exams_of, sample
from training.windows import test_window as window_of


@pytest.fixture
def dataset() -> Dataset:
    """User 0 has seen items 0 to 29 and comes back for 3 and 31."""
    return tiny_dataset(
        [0] * 32,
        [*range(30), 3, 31],
        items=40,
        time_ms=[DAY_MS * (1 + day) for day in range(32)],
        split=[*["train"] * 30, *["test"] * 2],
    )


def test_what_was_seen_is_not_relevant_and_never_recommended(dataset: Dataset) -> None:
    config = Config.model_validate({"serving": {"history_length": 5}})
    (exam,) = exams_of(dataset, window_of(dataset), config, users=10, seed=0)
    assert exam.relevant.tolist() == [31]
    assert len(exam.seen) == exam.known_events == 30


def test_the_user_is_known_by_as_much_history_as_is_served(dataset: Dataset) -> None:
    config = Config.model_validate({"serving": {"history_length": 5}})
    (exam,) = exams_of(dataset, window_of(dataset), config, users=10, seed=0)
    assert exam.user.history.keys.tolist() == dataset.item_keys[25:30].tolist()


def test_what_is_relevant_is_worth_what_the_configuration_declares(dataset: Dataset) -> None:
    (plain,) = exams_of(dataset, window_of(dataset), Config(), users=10, seed=0)
    assert plain.worth.tolist() == [1.0]
    dear = Config.model_validate({"ranking": {"head_weights": {"interaction": 7.5}}})
    (exam,) = exams_of(dataset, window_of(dataset), dear, users=10, seed=0)
    assert exam.worth.tolist() == [7.5]


def test_data_without_a_test_part_is_refused() -> None:
    dataset = tiny_dataset([0, 1], [0, 1])
    with pytest.raises(ArtifactRefused, match="test part"):
        exams_of(dataset, window_of(dataset), Config(), users=10, seed=0)


def test_a_cut_user_keeps_attributes_and_the_newest_events_and_is_nobody_known() -> None:
    exam = exam_of([1], known_events=8)
    cut = exam.cut(3)
    assert cut.user.history.keys.tolist() == [5, 6, 7]
    assert cut.user.attributes == exam.user.attributes
    assert cut.user.user_key == 0
    np.testing.assert_array_equal(cut.seen, exam.seen)
    assert len(exam.cut(0).user.history) == 0


def test_a_sample_keeps_the_order() -> None:
    assert sample([5, 3, 9], 10, seed=0) == [5, 3, 9]
    drawn = sample(range(100), 10, seed=0)
    assert drawn == sorted(drawn)
    assert len(drawn) == 10
