"""Pages asked for at a steady rate, whatever the answers take: an open loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import numpy as np

from shortlist.client import AsyncClient
from shortlist.page import Page, PageRequest

__all__ = ["PageLoad"]


class PageLoad:
    """Asks for pages of random users; `latencies_ms` counts from when a request was due.

    A request that waits for its turn because the server is slow has waited all the same
    (coordinated omission would hide it).
    """

    def __init__(
        self,
        client: AsyncClient,
        users: list[str],
        *,
        rate: float,
        seed: int = 0,
        watch: Callable[[float, Page], None] = lambda _started, _page: None,
    ) -> None:
        self.latencies_ms: list[float] = []
        self.failures = 0
        self._client = client
        self._users = users
        self._every_s = 1 / rate
        self._rng = np.random.default_rng(seed)
        self._watch = watch  # gets the moment a request was sent, and its page

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ask while the body runs; then wait for the answers that are on their way."""
        stopped = asyncio.Event()
        task = asyncio.create_task(self._ask(stopped))
        try:
            yield
        finally:
            stopped.set()
            await task

    async def run_for(self, seconds: float) -> None:
        async with self.running():
            await asyncio.sleep(seconds)

    def percentile(self, q: float) -> float:
        return float(np.percentile(self.latencies_ms, q)) if self.latencies_ms else float("nan")

    async def _ask(self, stopped: asyncio.Event) -> None:
        due = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while not stopped.is_set():
                group.create_task(self._one(due))
                due += self._every_s
                await asyncio.sleep(max(0.0, due - time.perf_counter()))

    async def _one(self, due: float) -> None:
        user = self._users[int(self._rng.integers(len(self._users)))]
        sent = time.perf_counter()
        try:
            page = await self._client.recommend(PageRequest(user_id=user))
        except Exception:
            self.failures += 1
            return
        self.latencies_ms.append(1000 * (time.perf_counter() - due))
        self._watch(sent, page)
