"""Everything of an orchestrator that a store makes possible, as one part."""

from __future__ import annotations

import logging

from orchestrator.catalog import Catalog
from orchestrator.events import EventIntake
from orchestrator.gone import UnavailableItems
from orchestrator.impressions import ImpressionLog
from orchestrator.stages import Draft
from shortlist.errors import NotImplementedYet, ShortlistError
from shortlist.tiers import LogPosition

__all__ = ["LiveState"]

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
