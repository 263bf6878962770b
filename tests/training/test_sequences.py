from __future__ import annotations

import numpy as np
import pytest

from training.sequences import UserSequences


def naive_before(users: np.ndarray, row: int, length: int) -> list[int]:
    """What the user of `row` did before it, newest last, filled up with -1 in front."""
    earlier = [other for other in range(row) if users[other] == users[row]][-length:]
    return [-1] * (length - len(earlier)) + earlier


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("length", [1, 3, 50])
def test_histories_are_what_a_loop_finds(seed: int, length: int) -> None:
    users = np.random.default_rng(seed).integers(0, 12, 150).astype(np.int32)
    rows = np.random.default_rng(seed).permutation(len(users))
    found = UserSequences(users, length=length).before(rows)
    expected = [naive_before(users, int(row), length) for row in rows]
    np.testing.assert_array_equal(found, expected)


def test_a_user_with_one_interaction_has_no_history() -> None:
    sequences = UserSequences(np.array([0, 1, 1], np.int32), length=2)
    assert sequences.before(np.array([0])).tolist() == [[-1, -1]]
