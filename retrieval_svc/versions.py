"""The versions of one shard that this process holds: one active, others beside it in a rollout."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from retrieval_svc.generation import Generation
from shortlist.admin import LoadedVersion, TierStatus
from shortlist.errors import VersionNotServed

__all__ = ["TIER", "LoadedGenerations"]

TIER = "retrieval"


class LoadedGenerations:
    """A `shortlist.admin.VersionedTier`. Changes only from the event loop, one at a time."""

    def __init__(self, active: Generation, load: Callable[[str], Generation]) -> None:
        """`load` opens another version of the same shard; it may raise what `open` raises."""
        self._active = active
        self._loaded = {active.version: active}
        self._load = load

    @property
    def active(self) -> Generation:
        return self._active

    def of(self, version: str | None) -> Generation:
        """The generation of `version`, or the active one. Raises `VersionNotServed`."""
        if version is None:
            return self._active
        try:
            return self._loaded[version]
        except KeyError:
            raise VersionNotServed(
                f"shard {self._active.shard} does not serve {version}; it serves "
                + ", ".join(self._loaded)
            ) from None

    def status(self) -> TierStatus:
        return TierStatus(
            tier=TIER,
            shard=self._active.shard,
            shards=self._active.shards,
            versions=tuple(
                LoadedVersion(
                    version=one.version,
                    active=one is self._active,
                    items=len(one.keys),
                    items_total=one.items_total,
                    watermark_ms=one.watermark_ms,
                )
                for one in self._loaded.values()
            ),
            capabilities=tuple(self._active.sources),
        )

    async def prepare(self, version: str) -> None:
        if version not in self._loaded:
            self._loaded[version] = await asyncio.to_thread(self._load, version)

    async def activate(self, version: str) -> str:
        previous, self._active = self._active, self.of(version)
        return previous.version

    async def retire(self, version: str) -> None:
        if self.of(version) is self._active:
            raise VersionNotServed(f"{version} is active; activate another version first")
        del self._loaded[version]
