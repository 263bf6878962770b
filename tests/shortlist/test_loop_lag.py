from __future__ import annotations

import asyncio
import time

from shortlist.loop_lag import PEAK_S, SAMPLE_S, LoopLag

BLOCK_S = 0.05


async def test_a_block_of_the_loop_is_a_sample_and_the_peak() -> None:
    samples: list[float] = []
    lag = LoopLag(samples.append)
    lag.start()
    await asyncio.sleep(3 * SAMPLE_S)
    time.sleep(BLOCK_S)
    await asyncio.sleep(3 * SAMPLE_S)
    lag.stop()
    assert max(samples) >= BLOCK_S - SAMPLE_S
    assert lag.peak_s == max(samples)


async def test_what_the_loop_computes_itself_is_told_apart_from_waiting() -> None:
    waited, computed = LoopLag(), LoopLag()
    waited.start()
    await asyncio.sleep(3 * SAMPLE_S)
    time.sleep(BLOCK_S)
    await asyncio.sleep(3 * SAMPLE_S)
    waited.stop()
    computed.start()
    await asyncio.sleep(3 * SAMPLE_S)
    _compute(BLOCK_S)
    await asyncio.sleep(3 * SAMPLE_S)
    computed.stop()
    assert waited.busy_peak_s < BLOCK_S / 2
    assert computed.busy_peak_s >= BLOCK_S - SAMPLE_S


async def test_another_thread_sees_a_block_that_has_not_ended() -> None:
    lag = LoopLag()
    lag.start()
    looking = asyncio.get_running_loop().run_in_executor(None, _peak_after, lag, BLOCK_S)
    time.sleep(2 * BLOCK_S)  # the loop comes to itself only after the other thread has looked
    assert await looking >= BLOCK_S - SAMPLE_S
    lag.stop()


async def test_asking_twice_gives_the_same_and_the_peak_is_forgotten_in_the_end() -> None:
    now = [1000.0]
    lag = LoopLag(clock=lambda: now[0])
    lag.start()
    now[0] += SAMPLE_S + 0.5
    await asyncio.sleep(2 * SAMPLE_S)
    assert lag.peak_s == lag.peak_s
    assert 0.49 < lag.peak_s < 0.51
    for _ in range(3):  # windows
        now[0] += PEAK_S
        lag._due = now[0]  # on time: only the clock of this test has jumped
        await asyncio.sleep(2 * SAMPLE_S)
    lag.stop()
    assert lag.peak_s == 0


async def test_a_watch_that_has_stopped_says_nothing_more() -> None:
    samples: list[float] = []
    lag = LoopLag(samples.append)
    lag.start()
    lag.stop()
    await asyncio.sleep(3 * SAMPLE_S)
    assert samples == []
    assert lag.peak_s == 0


def _compute(seconds: float) -> None:
    started = time.thread_time()
    while time.thread_time() - started < seconds:
        pass


def _peak_after(lag: LoopLag, seconds: float) -> float:
    time.sleep(seconds)
    return lag.peak_s
