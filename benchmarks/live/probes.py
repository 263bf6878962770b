"""How long a change takes to show on a page: asked through the front door, one change at a time."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import numpy as np

from shortlist.client import AsyncClient
from shortlist.feed import RecordedEvent
from shortlist.live import CatalogItem
from shortlist.page import PageRequest

__all__ = ["delete_to_gone", "event_to_page", "ingest", "sightings_after", "upsert_to_recommended"]

_PATIENCE_S = 30.0
_BATCH = 100  # events a call
_IN_FLIGHT = 8  # calls


class NeverHappened(RuntimeError):
    """A change did not show in time."""


async def event_to_page(client: AsyncClient, users: Sequence[str]) -> list[float]:
    """Milliseconds from sending a click on the first item of a page to a page without it."""
    times = []
    for user in users:
        page = await client.recommend(PageRequest(user_id=user))
        clicked = page.items[0].id
        started = time.perf_counter()
        event = RecordedEvent(
            event_id=uuid.uuid4().hex,
            user_id=user,
            item_id=clicked,
            attribution_token=page.attribution_token,
        )
        await client.record_events([event])
        await _until(partial(_is_gone, client, user, clicked))
        times.append(1000 * (time.perf_counter() - started))
    return times


async def upsert_to_recommended(
    client: AsyncClient, items: Sequence[CatalogItem], users: Sequence[str]
) -> list[float]:
    """Milliseconds from sending a new item to the first page that has it.

    The page is filtered to that one item: what is measured is when the whole path can recommend
    it, not whether it is anybody's favourite.
    """
    times = []
    for item, user in zip(items, users, strict=True):
        started = time.perf_counter()
        await client.upsert_items([item])
        request = PageRequest(user_id=user, filter=f'id = "{item.id}"')
        await _until(partial(_shows, client, request, item.id))
        times.append(1000 * (time.perf_counter() - started))
    return times


async def delete_to_gone(client: AsyncClient, users: Sequence[str]) -> list[float]:
    """Milliseconds from deleting the first item of a page to the first page without it."""
    times = []
    for user in users:
        doomed = (await client.recommend(PageRequest(user_id=user))).items[0].id
        started = time.perf_counter()
        await client.delete_items([doomed])
        await _until(partial(_is_gone, client, user, doomed))
        times.append(1000 * (time.perf_counter() - started))
    return times


async def sightings_after(
    client: AsyncClient, users: Sequence[str], *, readers: int, pages: int
) -> int:
    """How often a deleted item was on a page that was asked for after `wait_for_index` returned."""
    seen = 0
    for user in users:
        doomed = (await client.recommend(PageRequest(user_id=user))).items[0].id
        await client.delete_items([doomed], wait_for_index=True)

        async def read(user: str = user, doomed: str = doomed) -> int:
            return sum(
                [await _shows(client, PageRequest(user_id=user), doomed) for _ in range(pages)]
            )

        seen += sum(await asyncio.gather(*(read() for _ in range(readers))))
    return seen


async def ingest(
    client: AsyncClient,
    users: Sequence[str],
    items: Sequence[str],
    *,
    seconds: float,
    rate: float | None,
    seed: int,
) -> float:
    """Events a second that were acknowledged as durable; `rate` None = as many as it takes."""
    rng = np.random.default_rng(seed)
    started = time.perf_counter()
    accepted = 0
    sent = 0

    async def write() -> None:  # one of those in flight
        nonlocal accepted, sent
        while (now := time.perf_counter() - started) < seconds:
            if rate is not None and sent > rate * now:
                await asyncio.sleep((sent - rate * now) / rate)
                continue
            sent += _BATCH
            accepted += (await client.record_events(_events(rng, users, items, _BATCH))).accepted

    await asyncio.gather(*(write() for _ in range(_IN_FLIGHT)))
    return accepted / (time.perf_counter() - started)


def _events(
    rng: np.random.Generator, users: Sequence[str], items: Sequence[str], count: int
) -> list[RecordedEvent]:
    who, what = rng.integers(len(users), size=count), rng.integers(len(items), size=count)
    prefix = uuid.uuid4().hex
    return [
        RecordedEvent(event_id=f"{prefix}-{at}", user_id=users[user], item_id=items[item])
        for at, (user, item) in enumerate(zip(who, what, strict=True))
    ]


async def _until(happened: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.perf_counter() + _PATIENCE_S
    while not await happened():
        if time.perf_counter() > deadline:
            raise NeverHappened(f"not within {_PATIENCE_S:.0f} s")


async def _shows(client: AsyncClient, request: PageRequest, item: str) -> bool:
    return any(one.id == item for one in (await client.recommend(request)).items)


async def _is_gone(client: AsyncClient, user: str, item: str) -> bool:
    return not await _shows(client, PageRequest(user_id=user), item)
