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
def test_ordered_histories_are_what_a_loop_finds(seed: int, length: int) -> None:
    users = np.random.default_rng(seed).integers(0, 12, 150).astype(np.int32)
    rows = np.random.default_rng(seed).permutation(len(users))
    found = UserSequences(users, ordered=True, length=length).before(rows)
    expected = [naive_before(users, int(row), length) for row in rows]
    np.testing.assert_array_equal(found, expected)


def test_shuffling_leaves_ordered_histories_alone() -> None:
    users = np.array([0, 1, 0, 0, 1], np.int32)
    sequences = UserSequences(users, ordered=True, length=3)
    before = sequences.before(np.arange(5))
    sequences.shuffle(np.random.default_rng(0))
    np.testing.assert_array_equal(sequences.before(np.arange(5)), before)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("length", [1, 4, 30])
def test_unordered_histories_are_other_interactions_of_the_user_without_repetition(
    seed: int, length: int
) -> None:
    rng = np.random.default_rng(seed)
    users = rng.integers(0, 12, 150).astype(np.int32)
    sequences = UserSequences(users, ordered=False, length=length)
    sequences.shuffle(rng)
    for row, history in enumerate(sequences.before(np.arange(len(users)))):
        present = history[history >= 0].tolist()
        others = set(np.flatnonzero(users == users[row]).tolist()) - {row}
        assert set(present) <= others
        assert len(present) == len(set(present)) == min(length, len(others))
        # Padding stands in front, as in ordered histories.
        assert (history[: length - len(present)] == -1).all()


def test_unordered_histories_are_drawn_anew_by_every_shuffle() -> None:
    users = np.zeros(40, np.int32)
    sequences = UserSequences(users, ordered=False, length=5)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(2):
        sequences.shuffle(rng)
        drawn.append(sequences.before(np.arange(40)))
    assert (drawn[0] != drawn[1]).any()


def test_every_other_interaction_gets_into_an_unordered_history_sooner_or_later() -> None:
    users = np.zeros(6, np.int32)
    sequences = UserSequences(users, ordered=False, length=2)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(40):
        sequences.shuffle(rng)
        seen |= set(sequences.before(np.array([3]))[0].tolist())
    assert seen == {0, 1, 2, 4, 5}


def test_a_user_with_one_interaction_has_no_history() -> None:
    for ordered in (True, False):
        sequences = UserSequences(np.array([0, 1, 1], np.int32), ordered=ordered, length=2)
        assert sequences.before(np.array([0])).tolist() == [[-1, -1]]
