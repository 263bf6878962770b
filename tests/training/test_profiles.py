from __future__ import annotations

from pathlib import Path

import numpy as np

from shortlist.stores import Profile
from shortlist.stores.sqlite import SqliteStore
from tests.training.tiny import tiny_dataset
from training.dataset import Dataset
from training.profiles import items_of, profiles_of


def dataset() -> Dataset:
    return tiny_dataset(
        user=[0, 1, 0, 0],
        item=[2, 1, 0, 2],
        users=3,
        time_ms=[10, 20, 30, 40],
        weight=[1, 1, 0, 2],
        user_features={
            "city": ("geo", ["Linz", None, "Lyon"]),
            "age": ("numeric", [31.0, 40.0, None]),
            "hobbies": ("multi_categorical", [["a", "b"], [], None]),
            "home": ("geo", [(48.3, 14.3), (45.8, 4.8), (0.0, 0.0)]),
        },
    )


def profiles(history_length: int = 10, rows: list[int] | None = None) -> list[Profile]:
    chosen = None if rows is None else np.array(rows)
    found = list(profiles_of(dataset(), history_length=history_length, rows=chosen))
    assert [user_id for user_id, _ in found] == dataset().user_ids.to_pylist()
    return [profile for _, profile in found]


def test_a_history_is_oldest_first_with_the_weight_of_each_event() -> None:
    keys = dataset().item_keys
    history = profiles()[0].history
    assert history.keys.tolist() == [keys[2], keys[0], keys[2]]
    assert history.times_ms.tolist() == [10, 30, 40]
    assert history.weights.tolist() == [1, 0, 2]


def test_only_the_newest_events_are_kept_but_every_item_counts_as_seen() -> None:
    keys = dataset().item_keys
    profile = profiles(history_length=1)[0]
    assert profile.history.times_ms.tolist() == [40]
    assert profile.seen.tolist() == sorted([keys[0], keys[2]])


def test_a_user_without_events_has_an_empty_history() -> None:
    profile = profiles()[2]
    assert len(profile.history) == 0
    assert len(profile.seen) == 0


def test_attributes_leave_out_what_is_missing() -> None:
    assert profiles()[0].attributes == {
        "city": "Linz",
        "age": 31.0,
        "hobbies": ("a", "b"),
        "home": "48.3,14.3",
    }
    assert profiles()[2].attributes == {"city": "Lyon", "home": "0.0,0.0"}


def test_only_the_given_rows_are_known() -> None:
    profile = profiles(rows=[0, 1])[0]
    assert profile.history.times_ms.tolist() == [10]
    assert len(profile.seen) == 1


async def test_every_profile_can_be_stored_and_read_back(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.sqlite")
    await store.replace_base(profiles_of(dataset(), history_length=10), items_of(dataset()))
    read = await store.get(dataset().user_ids[0].as_py())
    assert read is not None
    assert read.history.weights.tolist() == [1, 0, 2]
    assert read.attributes == profiles()[0].attributes
    await store.close()
