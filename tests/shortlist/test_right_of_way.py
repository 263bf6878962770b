from __future__ import annotations

import asyncio
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from shortlist import serving, tailing
from shortlist.live import CatalogItem, Changes
from shortlist.right_of_way import RightOfWay
from shortlist.serving import Server, ServerOptions
from shortlist.stores import sqlite_writer
from shortlist.stores.memory import MemoryStore
from shortlist.stores.sqlite import SqliteStore
from shortlist.tailing import LogTailer
from shortlist.v1 import ranking_pb2, ranking_pb2_grpc
from tests.contracts.store import an_event

FOREVER = 600.0


async def test_nobody_waits_where_nobody_claims() -> None:
    way = RightOfWay(FOREVER)
    await way.give_on_loop()
    way.give()
    with way.turn():
        pass


async def test_whoever_gives_way_goes_on_when_the_last_request_is_answered() -> None:
    way = RightOfWay(FOREVER)
    with ExitStack() as last:
        last.enter_context(way.claimed())
        with way.claimed():
            waiting = [
                asyncio.create_task(way.give_on_loop()),
                asyncio.create_task(way.give_on_loop()),
                asyncio.create_task(asyncio.to_thread(way.give)),
            ]
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.02)
        assert not any(one.done() for one in waiting)
    await asyncio.wait_for(asyncio.gather(*waiting), 20)


async def test_a_request_that_fails_gives_the_way_back() -> None:
    way = RightOfWay(FOREVER)
    with pytest.raises(ZeroDivisionError), way.claimed():
        _ = 1 // 0
    await way.give_on_loop()


@pytest.mark.parametrize("in_a_thread", [True, False])
async def test_where_requests_never_end_half_of_the_time_is_left(in_a_thread: bool) -> None:
    way = RightOfWay(0.3)

    async def waited_s() -> float:
        started = time.monotonic()
        await (asyncio.to_thread(way.give) if in_a_thread else way.give_on_loop())
        return time.monotonic() - started

    with way.claimed():
        assert await waited_s() >= 0.29
        assert await waited_s() < 0.29, "for as long as it has waited"
        await asyncio.sleep(0.3)
        assert await waited_s() >= 0.29


async def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    way = RightOfWay(FOREVER)
    with way.claimed():
        waiting = asyncio.create_task(way.give_on_loop())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await way.give_on_loop()


def test_turns_are_taken_one_after_the_other() -> None:
    way = RightOfWay(FOREVER)
    at_once: list[int] = []
    inside = 0

    def take() -> None:
        nonlocal inside
        with way.turn():
            inside += 1
            at_once.append(inside)
            time.sleep(0.01)
            inside -= 1

    threads = [threading.Thread(target=take) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert at_once == [1, 1, 1, 1]


async def test_the_log_is_followed_between_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    way = RightOfWay(FOREVER)
    monkeypatch.setattr(tailing, "REQUESTS_FIRST", way)
    store = MemoryStore()
    applied: list[Changes] = []
    tailer = LogTailer(store, applied.append)
    await store.append([an_event(1)])
    with way.claimed():
        step = asyncio.create_task(tailer.catch_up())
        await asyncio.sleep(0.01)
        assert applied == []
    await asyncio.wait_for(step, 20)
    assert [one.events.sequences.tolist() for one in applied] == [[1]]


async def test_events_are_committed_between_requests_and_changes_of_items_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    way = RightOfWay(FOREVER)
    monkeypatch.setattr(sqlite_writer, "REQUESTS_FIRST", way)
    store = SqliteStore(tmp_path / "store.sqlite")
    with way.claimed():
        assert await asyncio.wait_for(store.upsert_items([CatalogItem(id="a")]), 20) == 1
        events = asyncio.create_task(store.append([an_event(1)]))
        await asyncio.sleep(0.02)
        assert not events.done()
        assert await store.head() == 1
    assert (await asyncio.wait_for(events, 20)).sequence == 2
    await store.close()


class Scoring(ranking_pb2_grpc.RankingServicer):
    """Says whether work that gives way went on while it was asked."""

    def __init__(self, way: RightOfWay) -> None:
        self._way = way
        self.others_went_on: bool | None = None

    async def Score(self, request: Any, context: Any) -> ranking_pb2.ScoreResponse:  # noqa: N802
        other = asyncio.create_task(self._way.give_on_loop())
        await asyncio.sleep(0.005)
        self.others_went_on = other.done()
        return ranking_pb2.ScoreResponse()


async def test_a_servers_requests_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    way = RightOfWay(FOREVER)
    monkeypatch.setattr(serving, "REQUESTS_FIRST", way)
    scoring, server = Scoring(way), Server(ServerOptions(drain_s=0))
    ranking_pb2_grpc.add_RankingServicer_to_server(scoring, server)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await server.start()}") as channel:
        await ranking_pb2_grpc.RankingStub(channel).Score(ranking_pb2.ScoreRequest(), timeout=30)
    await server.stop()
    assert scoring.others_went_on is False
    await asyncio.wait_for(way.give_on_loop(), 20)
