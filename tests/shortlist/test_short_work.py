from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest

from shortlist.short_work import ShortWork, ends_by

LOOP = threading.main_thread().name


def where() -> str:
    return threading.current_thread().name


@pytest.fixture
async def work() -> AsyncIterator[ShortWork]:
    work = ShortWork(1, name="worker", on_loop=True)
    yield work
    work.close()


def test_work_ends_before_its_deadline_by_what_the_answer_takes() -> None:
    now = time.perf_counter()
    assert now + 0.090 < ends_by(100) < now + 0.100
    assert ends_by(1) < now, "no work is that short"
    assert ends_by(None) == float("inf")


async def test_a_piece_that_comes_alone_is_done_on_the_loop(work: ShortWork) -> None:
    for _ in range(3):
        assert await work.run(where) == LOOP
        await asyncio.sleep(0)


async def test_of_pieces_that_come_together_the_loop_does_one(work: ShortWork) -> None:
    places = await asyncio.gather(*(work.run(where) for _ in range(4)))
    assert places == [LOOP, "worker_0", "worker_0", "worker_0"]
    await asyncio.sleep(0)
    assert await work.run(where) == LOOP, "all are done"


async def test_pieces_that_take_long_leave_the_loop_alone_until_they_are_short_again(
    work: ShortWork,
) -> None:
    await work.run(lambda: time.sleep(0.02))
    await asyncio.sleep(0)
    places = []
    for _ in range(40):
        places.append(await work.run(where))
        await asyncio.sleep(0)
    assert places[0] == "worker_0"
    assert places[-1] == LOOP


async def test_what_may_be_long_takes_a_thread(work: ShortWork) -> None:
    assert await work.run(where, may_be_long=True) == "worker_0"
    assert await work.run(where) == LOOP


async def test_a_process_that_has_other_things_to_do_keeps_its_loop_free() -> None:
    work = ShortWork(1, name="worker")
    assert await work.run(where) == "worker_0"
    work.close()


@pytest.mark.parametrize("on_loop", [True, False])
async def test_what_a_piece_raises_is_raised_and_the_next_one_runs(on_loop: bool) -> None:
    work = ShortWork(1, name="worker", on_loop=on_loop)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await work.run(lambda: 1 // 0)
        await asyncio.sleep(0)
    assert await work.run(where) == (LOOP if on_loop else "worker_0")
    work.close()
