"""Takes in events and changes of the catalogue without serving pages: for the command line."""

from __future__ import annotations

from pathlib import Path

from orchestrator.catalog import Catalog
from orchestrator.events import EventIntake
from orchestrator.gone import UnavailableItems
from orchestrator.impressions import ImpressionLog
from orchestrator.live_state import LiveState, TakesChanges
from shortlist.config import Config
from shortlist.schema import Schema
from shortlist.stores import Store
from shortlist.stores.opening import open_store

__all__ = ["StoreFeed"]


class StoreFeed(TakesChanges):
    """A workdir's store, behind the checks of an orchestrator. Use it as an async context manager.

    Processes that serve the workdir learn of the changes from the log, as of each other's.
    """

    def __init__(self, store: Store, schema: Schema, config: Config) -> None:
        self._store = store
        live = LiveState(
            gone=UnavailableItems(None),  # there are no pages here to keep items from
            impressions=ImpressionLog(None),
            events=EventIntake(store, schema, config.store),
            catalog=Catalog(store, schema, wait=None),
        )
        super().__init__(live)

    @classmethod
    def of(cls, workdir: Path) -> StoreFeed:
        """Raises `InvalidRequest` and `OSError` for a workdir that nothing was imported into."""
        config = Config.load(workdir / "shortlist.yaml")
        schema = Schema.load(workdir / "schema.yaml")
        return cls(open_store(config.store, workdir), schema, config)

    async def __aenter__(self) -> StoreFeed:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._live.close()
        await self._store.close()
