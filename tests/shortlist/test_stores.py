from __future__ import annotations

import pytest

from shortlist.stores.memory import MemoryStore
from tests.contracts.store import TIGHT, StoreContract, a_profile, assert_same


class TestMemoryStore(StoreContract):
    @pytest.fixture
    async def store(self) -> MemoryStore:
        return MemoryStore()

    @pytest.fixture
    async def tight(self) -> MemoryStore:
        return MemoryStore(config=TIGHT)


async def test_profiles_may_be_given_to_begin_with() -> None:
    store = MemoryStore([("ann", a_profile("ann"))])
    assert_same(await store.get("ann"), a_profile("ann"))
