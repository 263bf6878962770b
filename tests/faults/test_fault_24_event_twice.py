from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from shortlist.config import StoreConfig
from tests.contracts.store import all_events, many_events
from tests.faults.any_store import EVERY_STORE, a_store, profile_bytes, replayed

USERS = ["ann", "bob"]


@pytest.mark.parametrize("kind", EVERY_STORE)
async def test_an_event_sent_again_and_again_counts_once(
    kind: str, tmp_path: Path, record_fault: Callable[..., None]
) -> None:
    events = many_events(120, seed=24, users=USERS)
    sent = events * 3
    random.Random(24).shuffle(sent)
    calls = [sent[at : at + 9] for at in range(0, len(sent), 9)]
    async with a_store(kind, tmp_path, StoreConfig()) as store:
        answers = await asyncio.gather(*(store.append(call) for call in calls))
        duplicates = sum(len(answer.duplicates) for answer in answers)
        assert duplicates == len(sent) - len(events)
        assert await store.head() == len(events)
        assert len(await all_events(store)) == len(events)
        oracle = await replayed(events, StoreConfig())
        assert await profile_bytes(store, USERS) == await profile_bytes(oracle, USERS)
    record_fault(sent=len(sent), duplicates=duplicates)
