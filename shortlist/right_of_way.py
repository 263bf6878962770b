"""Requests go first: what can wait stands aside while one is being answered.

A process has one interpreter for all of its threads, so taking in events or following the log while
a page is made costs that page, most of all the slowest ones. To such work some milliseconds more do
not matter, though whoever sends events waits for them to be durable; at moderate load there are
gaps between requests, and it fits into them.

What has the way is a matter of the process, like its interpreter: there is one `REQUESTS_FIRST`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["REQUESTS_FIRST", "RightOfWay"]

_PATIENCE_S = 0.05


class RightOfWay:
    """Who has it claims it; who gives it waits for a moment in which nobody claims it.

    Where requests never end, there is no such moment. Then whoever gives way waits for
    `patience_s`, and for as long after that nobody waits: no work is put off for ever, or slowed
    down to less than half.
    """

    def __init__(self, patience_s: float = _PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._claims = 0
        self._free = threading.Event()
        self._free.set()
        self._waiting: set[asyncio.Future[None]] = set()
        self._impatient_until = 0.0
        self._turn = threading.Lock()

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """While a request is being answered; as many at once as there are."""
        with self._lock:
            self._claims += 1
            self._free.clear()
        try:
            yield
        finally:
            self._release()

    def give(self) -> None:
        """Wait in a thread."""
        if self._has_to_wait() and not self._free.wait(self._patience_s):
            self._lose_patience()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Do something in a thread that gave way, and nothing else that takes turns meanwhile: a
        request that comes then shares the interpreter with one piece of work, not with several."""
        with self._turn:
            self.give()
            yield

    async def give_on_loop(self) -> None:
        """Wait on an event loop."""
        if not self._has_to_wait():
            return
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        with self._lock:
            if not self._claims:
                return
            self._waiting.add(waiter)
        timer = loop.call_later(self._patience_s, self._lose_patience, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            with self._lock:
                self._waiting.discard(waiter)

    def _has_to_wait(self) -> bool:
        return self._claims > 0 and time.monotonic() >= self._impatient_until

    def _lose_patience(self, waiter: asyncio.Future[None] | None = None) -> None:
        self._impatient_until = time.monotonic() + self._patience_s
        if waiter is not None:
            _wake(waiter)

    def _release(self) -> None:
        with self._lock:
            self._claims -= 1
            if self._claims:
                return
            self._free.set()
            waiting, self._waiting = self._waiting, set()
        for waiter in waiting:
            waiter.get_loop().call_soon_threadsafe(_wake, waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


REQUESTS_FIRST = RightOfWay()
