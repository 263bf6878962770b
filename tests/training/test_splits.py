from __future__ import annotations

import numpy as np
import pytest

from shortlist.schema import SplitPlan
from training.splits import (
    TEST,
    TRAIN,
    VALIDATION,
    Learned,
    SplitImpossible,
    carve_validation,
    cut_by_time,
    held_out_of_log,
    leave_last_out,
    random_by_user,
)


def int64(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def random_rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 200, 5000), rng.integers(0, 100, 5000)


# --- time ---


def test_a_time_split_cuts_at_the_fractions() -> None:
    times = np.arange(1000, dtype=np.int64)
    cut = cut_by_time(times, SplitPlan())
    assert np.bincount(cut.codes(times)).tolist() == [800, 100, 100]
    assert (cut.train_end_ms, cut.validation_end_ms, cut.test_end_ms) == (800, 900, 1000)


def test_equal_times_stay_on_one_side() -> None:
    times = np.sort(np.random.default_rng(0).integers(0, 12, 1000))
    codes = cut_by_time(times, SplitPlan()).codes(times)
    assert all(len(set(codes[times == time])) == 1 for time in np.unique(times))
    assert (np.diff(codes) >= 0).all()


@pytest.mark.parametrize("fractions", [(0.0, 0.2), (0.2, 0.0), (0.0, 0.0)])
def test_a_part_that_is_not_asked_for_is_empty(fractions: tuple[float, float]) -> None:
    times = np.arange(100, dtype=np.int64)
    plan = SplitPlan(validation_fraction=fractions[0], test_fraction=fractions[1])
    counts = np.bincount(cut_by_time(times, plan).codes(times), minlength=3)
    assert counts[1:].tolist() == [100 * fractions[0], 100 * fractions[1]]


@pytest.mark.parametrize("times", [int64(5, 5, 5, 5), int64(5), int64(1, 9, 9, 9, 9, 9)])
def test_times_that_cannot_be_cut_are_refused(times: np.ndarray) -> None:
    with pytest.raises(SplitImpossible, match="leaves nothing for"):
        cut_by_time(times, SplitPlan())


# --- leave last out ---


def test_the_last_item_is_test_and_the_one_before_validation() -> None:
    user = int64(1, 2, 1, 1, 2, 1)
    item = int64(10, 10, 11, 12, 11, 13)
    codes = leave_last_out(user, item, np.ones(6, dtype=bool))
    assert codes.tolist() == [TRAIN, TRAIN, TRAIN, VALIDATION, TRAIN, TEST]


def test_an_item_seen_again_is_not_the_last_new_one() -> None:
    user = int64(1, 1, 1, 1)
    item = int64(10, 11, 12, 10)
    codes = leave_last_out(user, item, np.ones(4, dtype=bool))
    assert codes.tolist() == [TRAIN, VALIDATION, TEST, TRAIN]


def test_items_without_a_positive_are_never_held_out() -> None:
    positive = np.array([True, True, True, False])
    codes = leave_last_out(int64(1, 1, 1, 1), int64(10, 11, 12, 13), positive)
    assert codes.tolist() == [TRAIN, VALIDATION, TEST, TRAIN]


def test_users_with_two_items_train() -> None:
    assert not leave_last_out(int64(1, 1), int64(1, 2), np.ones(2, dtype=bool)).any()


# --- random ---


def test_a_random_split_keeps_each_pair_in_one_part() -> None:
    user, item = random_rows(seed=1)
    codes = random_by_user(user, item, SplitPlan())
    part_of_pair: dict[tuple[int, int], int] = {}
    for pair, code in zip(zip(user, item, strict=True), codes, strict=True):
        assert part_of_pair.setdefault(pair, code) == code


def test_a_random_split_has_the_fractions_and_every_user_trains() -> None:
    user, item = random_rows(seed=2)
    codes = random_by_user(user, item, SplitPlan(validation_fraction=0.2, test_fraction=0.1))
    shares = np.bincount(codes, minlength=3) / len(codes)
    assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.02)
    assert set(user[codes == TRAIN]) == set(user)


def test_the_seed_decides_a_random_split() -> None:
    user, item = random_rows(seed=3)
    first = random_by_user(user, item, SplitPlan(seed=1))
    assert (random_by_user(user, item, SplitPlan(seed=1)) == first).all()
    assert (random_by_user(user, item, SplitPlan(seed=2)) != first).any()


def test_users_with_few_items_are_tested_too() -> None:
    user = np.repeat(np.arange(3000), 3)
    codes = random_by_user(user, np.arange(9000), SplitPlan())
    assert np.mean(codes == TEST) == pytest.approx(0.1, abs=0.01)


def test_a_user_with_one_item_keeps_it() -> None:
    plan = SplitPlan(validation_fraction=0.45, test_fraction=0.45)
    assert not random_by_user(np.arange(100), np.arange(100), plan).any()


# --- given ---


def test_validation_is_carved_out_of_train_alone() -> None:
    user, item = random_rows(seed=4)
    given = np.where(np.arange(5000) % 5 == 0, TEST, TRAIN).astype(np.int8)
    codes = carve_validation(user, item, given, SplitPlan(validation_fraction=0.25))
    assert ((codes == TEST) == (given == TEST)).all()
    share = np.sum(codes == VALIDATION) / np.sum(given == TRAIN)
    assert share == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(
    ("logged", "tested", "held_out"),
    [
        (0, 1000, 200),  # enough to judge by, whatever was logged
        (500, 1000, 200),
        (5000, 1000, 500),  # a tenth of what was logged
        (500, 30, 50),
        (100, 30, 30),  # no fewer than the import had
    ],
)
def test_of_a_log_its_share_is_held_out_and_enough_to_judge_by(
    logged: int, tested: int, held_out: int
) -> None:
    assert held_out_of_log(logged, SplitPlan(test_fraction=0.1), tested=tested) == held_out
    assert held_out_of_log(logged, SplitPlan(test_fraction=0.0), tested=tested) == 0


def test_what_is_learned_goes_by_number_in_the_log_and_by_time_in_an_import() -> None:
    sequence, time_ms = np.array([0, 0, 1, 2, 3]), np.array([5, 9, 99, 1, 2])
    learned = Learned(log_sequence=2, imported_before_ms=9)
    assert learned.of(sequence, time_ms).tolist() == [True, False, True, True, False]
    everything = Learned(log_sequence=3, imported_before_ms=None)
    assert everything.of(sequence, time_ms).all()
    assert learned.later_of(everything) == everything.later_of(learned) == everything
    earlier = Learned(log_sequence=1, imported_before_ms=7)
    assert learned.later_of(earlier) == earlier.later_of(learned) == learned
