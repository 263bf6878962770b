"""A real system, asked for pages at a steady rate while its processes fail."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.live.load import PageLoad
from benchmarks.serving.systems import Process, running
from benchmarks.serving.world import WorldShape, prepare
from shortlist.client import AsyncClient
from shortlist.page import Page

__all__ = [
    "PAGES",
    "Moment",
    "Seen",
    "Stretch",
    "Watcher",
    "figures",
    "prepare_world",
    "recovery",
    "watched",
]

USERS = [f"user-{number:06d}" for number in range(100)]
RATE = 10.0  # pages a second
PAGES = 20  # of each stretch, at least
_SLOWER = 1.2  # than before, at most, is as before


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A page, and when it came."""

    page: Page
    took_ms: float  # since it was due
    at_s: float  # of time.perf_counter, when it was answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Between two pages."""

    pages: int  # answered before
    at_s: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """Pages between two events, in the order they came."""

    seen: Sequence[Seen]

    @property
    def pages(self) -> list[Page]:
        return [one.page for one in self.seen]

    @property
    def coverages(self) -> list[float]:
        return [page.coverage.share for page in self.pages]

    @property
    def lowest_coverage(self) -> float:
        return min(self.coverages)

    @property
    def reasons(self) -> set[str]:
        return {str(one.reason) for page in self.pages for one in page.degradations}

    @property
    def slowest_ms(self) -> float:
        return max(one.took_ms for one in self.seen)

    def percentile_ms(self, q: float) -> float:
        return float(np.percentile([one.took_ms for one in self.seen], q))

    def last(self, pages: int) -> Stretch:
        return Stretch(self.seen[-pages:])

    def whole_after_s(self, moment: Moment, *, within_ms: float = float("inf")) -> float | None:
        """Seconds from `moment` to the first second in which every page was whole, and 99 % of them
        took no longer than `within_ms`; None if there was none."""
        for at, first in enumerate(self.seen):
            second = [one for one in self.seen[at:] if one.at_s < first.at_s + 1]
            if self.seen[-1].at_s < first.at_s + 1:
                return None
            whole = all(one.page.coverage.share == 1 for one in second)
            if whole and Stretch(second).percentile_ms(99) <= within_ms:
                return first.at_s - moment.at_s
        return None


class Watcher:
    """Pages at a steady rate; none may fail or be short."""

    def __init__(
        self,
        client: AsyncClient,
        *,
        users: Sequence[str] = USERS,
        rate: float = RATE,
        processes: Sequence[Process] = (),
    ) -> None:
        self.processes = tuple(processes)
        self._rate = rate
        self._seen: list[Seen] = []
        self._load = PageLoad(client, list(users), rate=rate, watch=self._see)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        async with self._load.running():
            yield
        assert self._load.failures == 0
        assert all(len(one.page.items) == 20 for one in self._seen)

    async def stretch(self) -> Stretch:
        """The next pages, once those that are under way are answered."""
        await self.answered(round(self._rate / 2))
        moment = self.moment()
        await self.answered(PAGES)
        return self.since(moment)

    def moment(self) -> Moment:
        return Moment(pages=len(self._seen), at_s=time.perf_counter())

    def since(self, moment: Moment) -> Stretch:
        """What came after `moment`, and hence also what was under way then."""
        return Stretch(tuple(self._seen[moment.pages :]))

    async def answered(self, more: int) -> None:
        """Until so many more pages have come."""
        async with asyncio.timeout(120):
            wanted = len(self._seen) + more
            while len(self._seen) < wanted:
                await asyncio.sleep(0.02)

    async def attempts(self, tier: str) -> Counter[str]:
        """The orchestrator's calls to replicas so far, by what they were."""
        (port,) = (one.metrics_port for one in self.processes if one.name.startswith("orch"))
        text = await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/metrics")
        return Counter(
            {
                sample.labels["what"]: round(sample.value)
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name == "shortlist_tier_attempts_total" and sample.labels["tier"] == tier
            }
        )

    def kill(self, *names: str) -> None:
        self._signal(signal.SIGKILL, *names)

    @contextmanager
    def stopped(self, *names: str) -> Iterator[None]:
        """They stand still: their ports take connections and nothing answers."""
        self._signal(signal.SIGSTOP, *names)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT, *names)

    def _signal(self, number: signal.Signals, *names: str) -> None:
        for process in self.processes:
            if process.name in names:
                os.kill(process.pid, number)

    def _see(self, _: float, page: Page) -> None:
        took_ms = self._load.latencies_ms[-1]  # of this page: it was noted just now
        self._seen.append(Seen(page=page, took_ms=took_ms, at_s=time.perf_counter()))


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def prepare_world(folder: Path) -> None:
    prepare(folder, WorldShape(items=3000, users=len(USERS), candidates=300), print)


@asynccontextmanager
async def watched(world: Path, *, replicas: int = 1) -> AsyncIterator[Watcher]:
    """Two shards and a ranker in processes. A call is one attempt, so that failures show."""
    async with (
        running(world, "distributed", "fast", replicas=replicas, rankers=1) as system,
        AsyncClient(system.target, timeout_s=60, retries=False) as client,
    ):
        watcher = Watcher(client, processes=system.processes)
        async with watcher.watching():
            yield watcher


def figures(before: Stretch, during: Stretch) -> dict[str, float]:
    """Of pages, none of which failed: `Watcher` sees to that."""
    return {
        "failed": 0,
        "before_p50_ms": round(before.percentile_ms(50), 1),
        "before_p99_ms": round(before.percentile_ms(99), 1),
        "during_p50_ms": round(during.percentile_ms(50), 1),
        "during_p99_ms": round(during.percentile_ms(99), 1),
        "mean_coverage": round(float(np.mean(during.coverages)), 3),
        "lowest_coverage": round(during.lowest_coverage, 3),
    }


def recovery(moment: Moment, before: Stretch, after: Stretch) -> dict[str, float | str]:
    """Seconds from `moment` to the first whole second, and to the first that was as fast as
    `before`, too: shown, as other work may keep the machine busy."""
    limit_ms = _SLOWER * before.percentile_ms(99)
    whole, fast = after.whole_after_s(moment), after.whole_after_s(moment, within_ms=limit_ms)
    return {
        "whole_after_s": "never" if whole is None else round(whole, 2),
        "as_before_after_s": "never" if fast is None else round(fast, 2),
    }
