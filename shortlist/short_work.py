"""Where a process does the short pieces of work that calls come for: searches, scorings."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["ShortWork", "ends_by"]

Result = TypeVar("Result")

_RESERVE_MS = 2.0  # of a deadline, for packing the answer, its way, and unpacking it
_SHORT_S = 0.010  # the event loop may stand still so long
_FORGET = 0.95  # a piece of work that took long is remembered for some twenty shorter ones


def ends_by(deadline_ms: float | None) -> float:
    """By when (`time.perf_counter`) work has to end, so that who left it `deadline_ms` gets it."""
    if deadline_ms is None:
        return math.inf
    return time.perf_counter() + (deadline_ms - _RESERVE_MS) / 1000


class ShortWork:
    """Threads, and for a process that does nothing else the event loop while they are idle.

    The way to a thread and back wakes two sleeping threads, which takes as long as a search does.
    So with `on_loop` a piece is done at once if no other is under way, and if pieces have been
    short of late: what takes longer would keep probes and other calls waiting. No more than one a
    turn of the loop: calls that come together share the threads.
    """

    def __init__(self, threads: int, *, name: str, on_loop: bool = False) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._on_loop = on_loop
        self._under_way = 0
        self._longest_s = 0.0  # of late

    async def run(self, work: Callable[[], Result], *, may_be_long: bool = False) -> Result:
        """What `work` returns or raises. What may be long takes a thread, whatever others took."""
        loop = asyncio.get_running_loop()
        alone = self._on_loop and not self._under_way
        if alone and not may_be_long and self._longest_s <= _SHORT_S:
            self._under_way += 1
            loop.call_soon(self._end)  # in the next turn
            return self._timed(work)
        self._under_way += 1
        try:
            return await loop.run_in_executor(self._pool, self._timed, work)
        finally:
            self._end()

    def close(self) -> None:
        """What is under way ends, what waits does not begin."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _end(self) -> None:
        self._under_way -= 1

    def _timed(self, work: Callable[[], Result]) -> Result:
        started = time.perf_counter()
        try:
            return work()
        finally:
            took_s = time.perf_counter() - started
            self._longest_s = max(took_s, _FORGET * self._longest_s)
