"""Everything of an orchestrator that a store makes possible, as one part."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from orchestrator.catalog import Catalog
from orchestrator.events import EventIntake
from orchestrator.gone import UnavailableItems
from orchestrator.impressions import ImpressionLog
from orchestrator.stages import Draft
from shortlist.errors import NotImplementedYet, ShortlistError
from shortlist.feed import (
    Acknowledgement,
    CatalogPage,
    CatalogReport,
    EventBatch,
    EventReport,
    FoundItems,
    RecordedEvent,
)
from shortlist.live import CatalogItem
from shortlist.tiers import LogPosition

__all__ = ["LiveState", "TakesChanges"]

_log = logging.getLogger(__name__)


class LiveState:
    """Takes in events and changes, and follows the log. Without a store it does neither."""

    def __init__(
        self,
        *,
        gone: UnavailableItems,
        impressions: ImpressionLog,
        events: EventIntake | None,
        catalog: Catalog | None,
    ) -> None:
        self._gone = gone
        self._impressions = impressions
        self._events = events
        self._catalog = catalog

    @property
    def position(self) -> LogPosition:
        """How much of the change log this orchestrator knows."""
        return self._gone.position

    @property
    def events(self) -> EventIntake:
        """Raises `NotImplementedYet` without a store."""
        if self._events is None:
            raise NotImplementedYet("this process has no store that events could go to")
        return self._events

    @property
    def catalog(self) -> Catalog:
        """Raises `NotImplementedYet` without a store."""
        if self._catalog is None:
            raise NotImplementedYet("this process has no store that holds a catalogue")
        return self._catalog

    def shown(self, draft: Draft) -> None:
        """A page is on its way to its user; what it shows will be remembered."""
        self._impressions.note(draft)

    async def start(self) -> None:
        """Read the log to its end. Without the store, pages are made all the same: the shards
        filter by what they know, and the log is followed as soon as there is one."""
        try:
            await self._gone.start()
        except ShortlistError as error:
            _log.warning("the change log cannot be read yet: %s", error)

    async def close(self) -> None:
        await self._impressions.close()
        await self._gone.close()


class TakesChanges:
    """The methods by which events and changes come in, as the clients have them.

    Limits and errors are those of `EventIntake` and `Catalog`; without a store all of them raise
    `NotImplementedYet`.
    """

    def __init__(self, live: LiveState) -> None:
        self._live = live

    async def record_events(self, events: Sequence[RecordedEvent]) -> EventReport:
        """Take in events."""
        return await self._live.events.record(events)

    def stream_events(
        self, batches: AsyncIterator[EventBatch]
    ) -> AsyncGenerator[Acknowledgement, None]:
        """Take in batches of events as they come."""
        return self._live.events.stream(batches)

    async def upsert_items(
        self,
        items: Sequence[CatalogItem],
        *,
        wait_for_index: bool = False,
        deadline_ms: float | None = None,
    ) -> CatalogReport:
        """Add or replace items."""
        return await self._live.catalog.upsert_items(
            items, wait_for_index=wait_for_index, deadline_ms=deadline_ms
        )

    async def delete_items(
        self, ids: Sequence[str], *, wait_for_index: bool = False, deadline_ms: float | None = None
    ) -> CatalogReport:
        """Remove items from every page."""
        return await self._live.catalog.delete_items(
            ids, wait_for_index=wait_for_index, deadline_ms=deadline_ms
        )

    async def get_items(self, ids: Sequence[str]) -> FoundItems:
        """Items by id."""
        return await self._live.catalog.get_items(ids)

    async def list_items(self, *, page_size: int = 0, page_token: str = "") -> CatalogPage:
        """A page of the catalogue."""
        return await self._live.catalog.list_items(page_size=page_size, page_token=page_token)

    async def delete_users(self, ids: Sequence[str]) -> CatalogReport:
        """Forget users."""
        return await self._live.catalog.delete_users(ids)
