"""How long a change takes to show on a page: asked through the front door, one change at a time."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from shortlist.client import AsyncClient
from shortlist.feed import RecordedEvent
from shortlist.live import CatalogItem
from shortlist.page import PageRequest

__all__ = ["delete_to_gone", "event_to_page", "sightings_after", "upsert_to_recommended"]

_PATIENCE_S = 30.0


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


async def _until(happened: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.perf_counter() + _PATIENCE_S
    while not await happened():
        if time.perf_counter() > deadline:
            raise NeverHappened(f"not within {_PATIENCE_S:.0f} s")


async def _shows(client: AsyncClient, request: PageRequest, item: str) -> bool:
    return any(one.id == item for one in (await client.recommend(request)).items)


async def _is_gone(client: AsyncClient, user: str, item: str) -> bool:
    return not await _shows(client, PageRequest(user_id=user), item)
