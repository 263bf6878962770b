from __future__ import annotations

import asyncio
import time

import uvloop

from shortlist.loop_lag import PEAK_S, SHORTEST_S, LoopLag

BLOCK_S = 0.05


async def test_a_block_of_the_loop_is_told_and_is_the_peak() -> None:
    turns: list[float] = []
    lag = LoopLag(turns.append)
    lag.start()
    await asyncio.sleep(0.01)
    time.sleep(BLOCK_S)
    await asyncio.sleep(0.01)
    lag.stop()
    assert max(turns) >= BLOCK_S
    assert lag.peak_s == max(turns)
    assert all(turn >= SHORTEST_S for turn in turns)


async def test_a_loop_that_sleeps_is_not_late() -> None:
    now = [1000.0]
    lag = LoopLag(clock=lambda: now[0])
    lag.start()
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.01, lambda: None)
    await asyncio.sleep(0.05)  # the clock of this test stands still
    lag.stop()
    assert lag.peak_s == 0


async def test_what_the_loop_computes_itself_is_told_apart_from_waiting() -> None:
    waited, computed = LoopLag(), LoopLag()
    waited.start()
    await asyncio.sleep(0.01)
    time.sleep(BLOCK_S)
    await asyncio.sleep(0.01)
    waited.stop()
    computed.start()
    await asyncio.sleep(0.01)
    _compute(BLOCK_S)
    await asyncio.sleep(0.01)
    computed.stop()
    assert waited.busy_peak_s < BLOCK_S / 2
    assert computed.busy_peak_s >= BLOCK_S


async def test_another_thread_sees_a_block_that_has_not_ended() -> None:
    lag = LoopLag()
    lag.start()
    looking = asyncio.get_running_loop().run_in_executor(None, _peak_after, lag, BLOCK_S)
    time.sleep(2 * BLOCK_S)  # the loop comes to itself only after the other thread has looked
    assert await looking >= BLOCK_S
    lag.stop()


async def test_asking_twice_gives_the_same_and_the_peak_is_forgotten_in_the_end() -> None:
    now = [1000.0]
    lag = LoopLag(clock=lambda: now[0])
    lag.start()
    now[0] += 0.5
    await asyncio.sleep(0)
    assert lag.peak_s == lag.peak_s == 0.5
    for _ in range(3):  # windows
        lag._window_ends = now[0]  # they end, as if so much time had passed asleep
        await asyncio.sleep(0)
    lag.stop()
    assert lag.peak_s == 0
    assert PEAK_S > 0


async def test_a_watch_that_has_stopped_says_nothing_more() -> None:
    turns: list[float] = []
    lag = LoopLag(turns.append)
    lag.start()
    lag.stop()
    time.sleep(0.01)
    await asyncio.sleep(0.01)
    assert turns == []
    assert lag.peak_s == 0
    lag.stop()  # a second stop does nothing


def _compute(seconds: float) -> None:
    started = time.thread_time()
    while time.thread_time() - started < seconds:
        pass


def _peak_after(lag: LoopLag, seconds: float) -> float:
    time.sleep(seconds)
    return lag.peak_s


def test_a_loop_that_tells_no_turns_is_timed_by_a_clock_that_rings() -> None:
    turns: list[float] = []

    async def block() -> LoopLag:
        lag = LoopLag(turns.append)
        lag.start()
        await asyncio.sleep(0.12)
        time.sleep(3 * BLOCK_S)
        await asyncio.sleep(0.01)
        lag.stop()
        return lag

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        lag = runner.run(block())
    assert max(turns) >= 2 * BLOCK_S
    assert lag.peak_s == max(turns)
