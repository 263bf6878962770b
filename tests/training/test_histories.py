from __future__ import annotations

import math

import numpy as np

from tests.training.tiny import random_dataset, tiny_dataset
from training.histories import UserRows, history_of, user_attributes, user_histories


def test_a_users_rows_are_what_a_loop_finds_oldest_first() -> None:
    dataset = random_dataset()
    rows = np.sort(np.random.default_rng(1).permutation(400)[:250])
    index = UserRows(dataset, rows)
    for user in range(-1, 27):  # the first and the last are nobody
        expected = [row for row in rows if dataset.events.user[row] == user]
        assert index.of(user).tolist() == expected


def test_a_history_has_keys_times_and_weights() -> None:
    dataset = tiny_dataset(
        [0, 1, 0], [2, 1, 0], time_ms=[10, 20, 30], weight=[1.0, 0.5, 0.0], items=3
    )
    history = history_of(dataset, np.array([0, 2]))
    assert history.keys.tolist() == dataset.item_keys[[2, 0]].tolist()
    assert history.times_ms.tolist() == [10, 30]
    assert history.weights.tolist() == [1.0, 0.0]


def test_histories_are_aligned_with_the_users_asked_for() -> None:
    dataset = random_dataset()
    rows = dataset.rows_of_split("train")
    users = [7, 3, 7, 20]
    for user, history in zip(users, user_histories(dataset, rows, users), strict=True):
        mine = rows[dataset.events.user[rows] == user]
        np.testing.assert_array_equal(history.keys, dataset.item_keys[dataset.events.item[mine]])
        np.testing.assert_array_equal(history.times_ms, dataset.events.time_ms[mine])


def test_a_user_without_rows_has_an_empty_history() -> None:
    dataset = random_dataset()
    (history,) = user_histories(dataset, np.empty(0, np.int64), [3])
    assert len(history) == 0


def test_attributes_come_by_name_without_the_missing_ones() -> None:
    dataset = tiny_dataset(
        [0, 1, 2],
        [0, 0, 0],
        user_features={
            "city": ("categorical", ["Lyon", None, "Linz"]),
            "age": ("numeric", [31.0, 20.0, None]),
            "likes": ("multi_categorical", [["tea", "rain"], None, []]),
        },
    )
    assert user_attributes(dataset, [0, 2, 1, 0]) == [
        {"city": "Lyon", "age": 31.0, "likes": ("tea", "rain")},
        {"city": "Linz", "likes": ()},
        {"age": 20.0},
        {"city": "Lyon", "age": 31.0, "likes": ("tea", "rain")},
    ]


def test_coordinates_are_texts_of_no_more_digits_than_they_have() -> None:
    homes = [(48.86, 2.35), (None, None), (math.nan, 3.0)]
    dataset = tiny_dataset([0, 1, 2], [0, 0, 0], user_features={"home": ("geo", homes)})
    assert user_attributes(dataset, [0, 1, 2]) == [{"home": "48.86,2.35"}, {}, {}]


def test_nobody_has_no_attributes() -> None:
    dataset = tiny_dataset([0], [0], user_features={"city": ("categorical", ["Lyon"])})
    assert user_attributes(dataset, []) == []
