from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from benchmarks.protocols.held_out import (
    SplitByUser,
    TooFewUsers,
    read_held_out,
    split_users,
    write_split,
)
from tests.benchmarks.protocols.files import PLAN, write_ratings_csv
from training.readers import SourceUnreadable

Part = Literal["test", "validation"]


@pytest.fixture
def user() -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.repeat(np.arange(100, 160), rng.integers(3, 25, 60)).astype(np.int64)


@pytest.fixture
def item(user: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(2)
    pairs = [rng.permutation(40)[: np.count_nonzero(user == one)] for one in np.unique(user)]
    return np.concatenate(pairs).astype(np.int64)


def users_of(user: np.ndarray, rows: np.ndarray) -> set[int]:
    return set(user[rows].tolist())


def split_both(user: np.ndarray, item: np.ndarray) -> tuple[SplitByUser, SplitByUser]:
    return split_users(user, item, PLAN, "validation"), split_users(user, item, PLAN, "test")


def test_nobody_is_in_two_parts(user: np.ndarray, item: np.ndarray) -> None:
    validation, test = split_both(user, item)
    parts = [users_of(user, one.shown) for one in (validation, test)]
    assert [len(part) for part in parts] == [PLAN.users, PLAN.users]
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & users_of(user, test.train)
    np.testing.assert_array_equal(validation.train, test.train)


def test_users_with_too_few_liked_items_are_left_out(user: np.ndarray, item: np.ndarray) -> None:
    split = split_users(user, item, PLAN, "test")
    few = {one for one in np.unique(user).tolist() if np.count_nonzero(user == one) < 5}
    assert few
    assert not few & users_of(user, np.concatenate([split.train, split.shown, split.hidden]))


def test_a_fifth_of_a_held_out_users_items_is_hidden(user: np.ndarray, item: np.ndarray) -> None:
    split = split_users(user, item, PLAN, "test")
    for one in users_of(user, split.shown):
        hidden = np.count_nonzero(user[split.hidden] == one)
        shown = np.count_nonzero(user[split.shown] == one)
        assert hidden == (int(0.2 * (hidden + shown)) if hidden + shown >= 5 else 0)


def test_items_that_no_training_user_liked_are_neither_shown_nor_hidden(
    user: np.ndarray, item: np.ndarray
) -> None:
    held_out = split_users(user, item, PLAN, "test").shown
    strange = item.copy()
    strange[held_out[0]] = 99_999
    split = split_users(user, strange, PLAN, "test")
    assert 99_999 not in strange[np.concatenate([split.shown, split.hidden])]


@pytest.mark.parametrize("part", ["test", "validation"])
def test_equal_seeds_draw_equal_users_and_items(
    user: np.ndarray, item: np.ndarray, part: Part
) -> None:
    first, again = (split_users(user, item, PLAN, part) for _ in range(2))
    np.testing.assert_array_equal(first.hidden, again.hidden)
    other = split_users(user, item, PLAN.model_copy(update={"seed": 1}), part)
    assert users_of(user, other.shown) != users_of(user, first.shown)


def test_users_are_drawn_as_the_published_code_draws_them() -> None:
    """A permutation of the ascending ids; the last are for test, those before for validation."""
    user, item = np.repeat(np.arange(30), 6), np.tile(np.arange(6), 30)
    order = np.random.RandomState(98765).permutation(30)
    validation, test = split_both(user, item)
    assert users_of(user, test.shown) == set(order[-8:].tolist())
    assert users_of(user, validation.shown) == set(order[-16:-8].tolist())
    draws = np.random.RandomState(98765)
    hidden = [6 * one + draws.choice(6, 1, replace=False)[0] for one in np.sort(order[-8:])]
    assert test.hidden.tolist() == hidden


def test_holding_out_everybody_is_refused_with_the_numbers() -> None:
    user, item = np.repeat(np.arange(16), 6), np.tile(np.arange(6), 16)
    with pytest.raises(TooFewUsers, match="16 users have 5 liked items; 2 x 8"):
        split_users(user, item, PLAN, "test")


def test_only_ratings_above_the_threshold_are_written(tmp_path: Path) -> None:
    source = write_ratings_csv(tmp_path / "source")
    liked = {
        (int(user), int(item))
        for user, item, rating, _ in (
            line.split(",") for line in (source / "ratings.csv").read_text().splitlines()[1:]
        )
        if float(rating) >= 4
    }
    write_split(source, tmp_path / "files", PLAN, "test")
    held_out = read_held_out(tmp_path / "files").to_pylist()
    assert {(row["user"], row["item"]) for row in held_out} <= liked
    assert len({row["user"] for row in held_out}) == PLAN.users
    assert {row["hidden"] for row in held_out} == {True, False}


def test_another_file_of_that_name_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SourceUnreadable, match="userId"):
        write_split(tmp_path, tmp_path / "files", PLAN, "test")
