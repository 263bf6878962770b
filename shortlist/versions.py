"""The versions of one tier that this process holds: one active, others beside it in a rollout."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from shortlist.admin import LoadedVersion, TierStatus
from shortlist.errors import VersionNotServed

__all__ = ["LoadedVersions", "Servable"]


class Servable(Protocol):
    """Something of one version, immutable once loaded."""

    @property
    def version(self) -> str: ...

    def describe_version(self, *, active: bool) -> LoadedVersion: ...

    def describe_tier(self, versions: tuple[LoadedVersion, ...]) -> TierStatus: ...


S = TypeVar("S", bound=Servable)


class LoadedVersions(Generic[S]):
    """A `shortlist.admin.VersionedTier`. Changes only from the event loop, one at a time."""

    def __init__(self, active: S, load: Callable[[str], S]) -> None:
        """`load` opens another version of the same tier; it may raise what opening raises."""
        self._active = active
        self._loaded = {active.version: active}
        self._load = load

    @property
    def active(self) -> S:
        return self._active

    def of(self, version: str | None) -> S:
        """What is loaded of `version`, or the active one. Raises `VersionNotServed`."""
        if version is None:
            return self._active
        try:
            return self._loaded[version]
        except KeyError:
            raise VersionNotServed(
                f"version {version} is not served here; served: {', '.join(self._loaded)}"
            ) from None

    def status(self) -> TierStatus:
        return self._active.describe_tier(
            tuple(one.describe_version(active=one is self._active) for one in self._loaded.values())
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
