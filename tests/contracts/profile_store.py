"""What every `ProfileStore` does. A store's test inherits this and supplies `store`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import pytest

from shortlist.errors import InvalidField
from shortlist.ids import key_of, keys_of
from shortlist.stores import Profile, ProfileStore
from shortlist.tiers import AttributeValue, History


class WritableStore(ProfileStore, Protocol):
    def write(
        self, profiles: Iterable[tuple[str, Profile]], *, replace_all: bool = False
    ) -> int: ...


def a_profile(
    user_id: str, items: Iterable[str] = ("a", "b"), **attributes: AttributeValue
) -> Profile:
    keys = keys_of(items)
    history = History(
        keys=keys,
        times_ms=np.arange(len(keys), dtype=np.int64) + 1_500_000_000_000,
        weights=np.linspace(0, 1, len(keys), dtype=np.float32),
    )
    seen = np.concatenate([keys, keys_of(["long-ago"])])
    return Profile(user_key=key_of(user_id), history=history, seen=seen, attributes=attributes)


def assert_same(found: Profile | None, expected: Profile) -> None:
    assert found is not None
    assert found.user_key == expected.user_key
    for column in ("keys", "times_ms", "weights"):
        mine, theirs = getattr(found.history, column), getattr(expected.history, column)
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(found.seen, expected.seen)
    assert dict(found.attributes) == dict(expected.attributes)


class ProfileStoreContract:
    @pytest.fixture
    def store(self) -> Any:
        raise NotImplementedError

    async def test_what_was_written_is_read_back(self, store: WritableStore) -> None:
        profile = a_profile("ann", country="is", age=41.5, tags=("jazz", "è"))
        assert store.write([("ann", profile)]) == 1
        assert_same(await store.get("ann"), profile)

    async def test_an_unknown_user_has_no_profile(self, store: WritableStore) -> None:
        store.write([("ann", a_profile("ann"))])
        assert await store.get("bob") is None
        assert await store.get("") is None

    async def test_an_empty_profile_is_still_a_profile(self, store: WritableStore) -> None:
        empty = Profile(user_key=key_of("ann"), history=History.empty())
        store.write([("ann", empty)])
        assert_same(await store.get("ann"), empty)

    async def test_a_second_write_replaces_only_the_users_it_names(
        self, store: WritableStore
    ) -> None:
        store.write([("ann", a_profile("ann")), ("bob", a_profile("bob"))])
        newer = a_profile("ann", items=["c"])
        store.write([("ann", newer)])
        assert_same(await store.get("ann"), newer)
        assert_same(await store.get("bob"), a_profile("bob"))

    async def test_replace_all_forgets_the_others(self, store: WritableStore) -> None:
        store.write([("ann", a_profile("ann"))])
        store.write([("bob", a_profile("bob"))], replace_all=True)
        assert await store.get("ann") is None
        assert_same(await store.get("bob"), a_profile("bob"))

    async def test_a_generator_of_many_profiles_is_written_in_one_go(
        self, store: WritableStore
    ) -> None:
        users = [f"user-{n}" for n in range(500)]
        assert store.write((user, a_profile(user)) for user in users) == 500
        assert_same(await store.get("user-499"), a_profile("user-499"))

    async def test_a_profile_under_a_wrong_id_is_refused_and_nothing_is_written(
        self, store: WritableStore
    ) -> None:
        store.write([])
        with pytest.raises(InvalidField, match="bob") as refused:
            store.write([("ann", a_profile("ann")), ("bob", a_profile("ann"))])
        assert refused.value.field == "user_key"
        assert await store.get("ann") is None

    async def test_history_columns_of_different_lengths_are_refused(
        self, store: WritableStore
    ) -> None:
        good = a_profile("ann").history
        bad = History(keys=good.keys, times_ms=good.times_ms[:1], weights=good.weights)
        with pytest.raises(InvalidField, match="length"):
            store.write([("ann", Profile(user_key=key_of("ann"), history=bad))])

    async def test_closing_twice_is_allowed(self, store: WritableStore) -> None:
        await store.close()
        await store.close()
