from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contracts.store import TIGHT, many_events
from tests.faults.any_store import EVERY_STORE, a_store, profile_bytes, replayed

USERS = ["ann", "bob", "eve"]
ORDERS = 5


@pytest.mark.parametrize("kind", EVERY_STORE)
async def test_events_in_any_order_give_the_profiles_of_a_sorted_replay(
    kind: str, tmp_path: Path, record_fault: Callable[..., None]
) -> None:
    for seed in range(ORDERS):
        events = many_events(250, seed, USERS)
        oracle = await replayed(events, TIGHT)
        expected = await profile_bytes(oracle, USERS)
        assert all(expected)
        chance = random.Random(1000 + seed)
        chance.shuffle(events)
        async with a_store(kind, tmp_path / str(seed), TIGHT) as store:
            while events:
                size = chance.randrange(1, 30)
                await store.append(events[:size])
                del events[:size]
            assert await profile_bytes(store, USERS) == expected
    record_fault(orders=ORDERS)
