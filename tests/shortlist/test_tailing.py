from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace

import pytest

from shortlist import tailing
from shortlist.live import CatalogItem, Changes
from shortlist.stores import ProfilesUnavailable
from shortlist.stores.memory import MemoryStore
from shortlist.tailing import LogTailer
from tests.contracts.store import an_event


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)


async def test_events_and_items_are_applied_in_order_each_once() -> None:
    store = MemoryStore()
    applied: list[Changes] = []
    tailer = LogTailer(store, applied.append)
    await tailer.catch_up()
    tailer.start()
    for number in range(20):
        await store.append([an_event(number)])
        await store.upsert_items([CatalogItem(id=f"i{number}")])
        await asyncio.sleep(0.002)
    await until(lambda: tailer.position.sequence == 40)
    await tailer.close()
    events = [number for one in applied for number in one.events.sequences.tolist()]
    items = [change.sequence for one in applied for change in one.items]
    assert sorted(events + items) == list(range(1, 41))
    assert (events, items) == (sorted(events), sorted(items))
    assert all(one.sequence < two.sequence for one, two in pairwise(applied))


@pytest.mark.parametrize("error", [ProfilesUnavailable("away"), ValueError("a bug")])
async def test_a_stretch_that_could_not_be_applied_is_applied_later(error: Exception) -> None:
    store = MemoryStore()
    applied: list[Changes] = []
    failures = [error]

    def apply(changes: Changes) -> None:
        if failures:
            raise failures.pop()
        applied.append(changes)

    tailer = LogTailer(store, apply)
    await store.append([an_event(1), an_event(2)])
    tailer.start()
    await until(lambda: tailer.position.sequence == 2)
    await tailer.close()
    assert [one.events.sequences.tolist() for one in applied] == [[1, 2]]


@pytest.mark.parametrize("kept", [0, 2])
async def test_a_log_that_was_lost_or_put_back_is_followed_from_its_end(kept: int) -> None:
    """A version that knows 500 changes meets a log of fewer: what comes next is new to it."""
    store = MemoryStore()
    if kept:
        await store.append([an_event(number) for number in range(kept)])
    applied: list[Changes] = []
    tailer = LogTailer(store, applied.append, after=500)
    await tailer.catch_up()
    tailer.start()
    await store.append([an_event(100)])
    await until(lambda: bool(applied))
    await tailer.close()
    assert [one.events.sequences.tolist() for one in applied] == [[kept + 1]]
    assert tailer.position.sequence == kept + 1


class SlowStore(MemoryStore):
    """Counts how often the log is read; a read ends when `go` is set, with what was there when it
    began."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.go = asyncio.Event()

    async def changes(self, after: int, limit: int = 10_000) -> Changes:
        self.reads += 1
        found = await super().changes(after, limit)
        await self.go.wait()
        return found


async def test_what_several_followers_want_at_once_is_read_once() -> None:
    store = SlowStore()
    await store.append([an_event(1), an_event(2)])
    applied: list[Changes] = []
    tailers = [LogTailer(store, applied.append) for _ in range(3)]
    catching_up = [asyncio.create_task(tailer.catch_up()) for tailer in tailers]
    await until(lambda: store.reads > 0)
    store.go.set()
    await asyncio.gather(*catching_up)
    assert [one.events.sequences.tolist() for one in applied] == [[1, 2]] * 3
    assert store.reads == 1


async def test_a_read_that_began_before_a_change_is_not_the_end_of_the_log() -> None:
    store = SlowStore()
    await store.append([an_event(1)])
    first, second = (LogTailer(store, lambda _: None) for _ in range(2))
    catching_up = [asyncio.create_task(first.catch_up())]
    await until(lambda: store.reads > 0)
    await store.append([an_event(2)])
    catching_up.append(asyncio.create_task(second.catch_up()))
    await asyncio.sleep(0.05)
    store.go.set()
    await asyncio.gather(*catching_up)
    assert second.position.sequence == 2


async def test_a_read_that_fails_when_nobody_waits_any_more_troubles_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(SlowStore):
        async def changes(self, after: int, limit: int = 10_000) -> Changes:
            await super().changes(after, limit)
            raise ProfilesUnavailable("closed")

    store = Failing()
    await store.append([an_event(1)])
    tailer = LogTailer(store, lambda _: None)
    tailer.start()
    await until(lambda: store.reads > 0)
    await tailer.close()
    store.go.set()
    await asyncio.sleep(0.01)
    gc.collect()
    assert caplog.records == []


@pytest.mark.parametrize("began_at", [100.001, 100.01, 100.02])
async def test_followers_rest_until_the_same_moment(
    began_at: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    await store.append([an_event(1)])
    tailer = LogTailer(store, lambda _: None)
    monkeypatch.setattr(tailing, "time", SimpleNamespace(monotonic=lambda: began_at))
    for longest_s in (tailing._GATHER_S, tailing._POLL_S):  # after an event, and after nothing
        rest_s = await tailer._step()
        assert 0 < rest_s <= longest_s
        rests = (began_at + rest_s) / longest_s
        assert rests == pytest.approx(round(rests), abs=1e-6)
