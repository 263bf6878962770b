"""The versions of one tier that this process holds: one active, others beside it in a rollout."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from shortlist.admin import LoadedVersion, TierStatus, VersionedTier
from shortlist.errors import ShortlistError, VersionNotServed
from shortlist.live import Changes
from shortlist.stores import Store
from shortlist.tailing import LogTailer
from shortlist.tiers import LogPosition

__all__ = ["LoadedVersions", "Servable", "VersionsTogether"]

_log = logging.getLogger(__name__)

_DRAIN_S = 30.0  # for a version's last requests; every request has a deadline long before
_LOOK_EVERY_S = 0.01


class Servable(Protocol):
    """Something of one version, as published; beside it, what has changed since."""

    @property
    def version(self) -> str: ...

    @property
    def log_sequence(self) -> int:
        """The changes up to this one are part of the version as it was published."""
        ...

    def apply(self, changes: Changes) -> None:
        """Take in changes; called from one thread at a time while others ask. Never some of them
        only: when it raises, the same are given again."""
        ...

    def describe_version(self, *, active: bool) -> LoadedVersion: ...

    def describe_tier(self, versions: tuple[LoadedVersion, ...]) -> TierStatus: ...

    def close(self) -> None:
        """Stop what goes on in the background; nobody asks any more."""
        ...


S = TypeVar("S", bound=Servable)


class LoadedVersions(Generic[S]):
    """A `shortlist.admin.VersionedTier`. Changes only from the event loop, one at a time.

    With a store every version follows the log of changes, each from where it was published.
    """

    def __init__(self, active: S, load: Callable[[str], S], *, store: Store | None = None) -> None:
        """`load` opens another version of the same tier; it may raise what opening raises."""
        self._active = active
        self._loaded = {active.version: active}
        self._load = load
        self._store = store
        self._tailers: dict[str, LogTailer] = {}
        self._asked: Counter[str] = Counter()  # requests that a version is answering
        self._wanted: Callable[[], Sequence[str]] | None = None

    @classmethod
    def starting(
        cls,
        wanted: Callable[[], Sequence[str]],
        first: Callable[[str], S],
        load: Callable[[str], S],
        *,
        store: Store | None = None,
    ) -> LoadedVersions[S]:
        """Load all versions that are `wanted` by `first`; the first that loads is active.

        What is wanted is asked again by `start`, for it may have changed meanwhile. Raises what
        loading raised when none loads.
        """
        loaded: list[S] = []
        versions = wanted()
        for version in versions:
            try:
                loaded.append(first(version))
            except ShortlistError as error:
                if not loaded and version == versions[-1]:
                    raise
                _log.error("%s does not load: %s", version, error)
        started = cls(loaded[0], load, store=store)
        started._loaded = {one.version: one for one in loaded}
        started._wanted = wanted
        return started

    @property
    def active(self) -> S:
        return self._active

    @property
    def loaded(self) -> tuple[S, ...]:
        return tuple(self._loaded.values())

    @property
    def active_first(self) -> tuple[S, ...]:
        """What is loaded, the active one first."""
        return (self._active, *(one for one in self.loaded if one is not self._active))

    async def start(self) -> None:
        """Catch up with the log, then follow it. A second start does nothing.

        To be called before the active version is asked. Raises what the store raises.
        """
        await self._catch_up_with_rollout()
        for one in self.loaded:
            await self._follow(one)

    async def _catch_up_with_rollout(self) -> None:
        """Loading takes time, in which a rollout may have gone on without this process."""
        versions = list(self._wanted()) if self._wanted else []
        for version in versions:
            try:
                await self.prepare(version)
            except ShortlistError as error:
                _log.error("%s does not load: %s", version, error)
        if versions and versions[0] in self._loaded:
            await self.activate(versions[0])

    async def close(self) -> None:
        """Follow no longer."""
        tailers, self._tailers = self._tailers, {}
        for tailer in tailers.values():
            await tailer.close()

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

    @contextmanager
    def asked(self, version: str | None) -> Iterator[S]:
        """What `of` returns, which is not unloaded before the block ends."""
        one = self.of(version)
        self._asked[one.version] += 1
        try:
            yield one
        finally:
            self._asked[one.version] -= 1

    def position(self, version: str | None = None) -> LogPosition:
        """How much of the log `version`, or the active one, knows; without a store nothing."""
        tailer = self._tailers.get(version or self._active.version)
        return tailer.position if tailer else LogPosition()

    def status(self) -> TierStatus:
        return self._active.describe_tier(tuple(map(self._describe, self.loaded)))

    async def prepare(self, version: str) -> None:
        if version not in self._loaded:
            one = await asyncio.to_thread(self._load, version)
            await self._follow(one)  # it counts as prepared when it knows what the others know
            self._loaded[version] = one

    async def activate(self, version: str) -> str:
        previous, self._active = self._active, self.of(version)
        return previous.version

    async def retire(self, version: str) -> None:
        """Nobody new may ask; it is unloaded when the last who did has an answer."""
        one = self.of(version)
        if one is self._active:
            raise VersionNotServed(f"{version} is active; activate another version first")
        del self._loaded[version]
        await self._until_idle(version)
        if tailer := self._tailers.pop(version, None):
            await tailer.close()
        await asyncio.to_thread(one.close)

    async def _until_idle(self, version: str) -> None:
        for _ in range(int(_DRAIN_S / _LOOK_EVERY_S)):
            if not self._asked[version]:
                del self._asked[version]
                return
            await asyncio.sleep(_LOOK_EVERY_S)
        _log.error("%s still answers %d requests", version, self._asked[version])

    async def _follow(self, one: S) -> None:
        if self._store is None or one.version in self._tailers:
            return
        tailer = LogTailer(self._store, one.apply, after=one.log_sequence)
        await tailer.catch_up()
        self._tailers[one.version] = tailer
        tailer.start()

    def _describe(self, one: S) -> LoadedVersion:
        described = one.describe_version(active=one is self._active)
        return replace(described, log=self.position(one.version))


class VersionsTogether:
    """Several shards in one process, which change their version as one.

    A `shortlist.admin.VersionedTier`; its status is the first shard's, with the items of all.
    """

    def __init__(self, parts: Sequence[VersionedTier]) -> None:
        self._parts = tuple(parts)

    def status(self) -> TierStatus:
        statuses = [part.status() for part in self._parts]
        versions = tuple(
            replace(one, items=sum(_items(status, one.version) for status in statuses))
            for one in statuses[0].versions
        )
        return replace(statuses[0], versions=versions)

    async def prepare(self, version: str) -> None:
        """All of them, or none when one cannot."""
        try:
            for part in self._parts:
                await part.prepare(version)
        except ShortlistError:
            for part in self._parts:
                with suppress(VersionNotServed):
                    await part.retire(version)
            raise

    async def activate(self, version: str) -> str:
        """All in one step of the event loop, when all have it. Raises `VersionNotServed`."""
        for part in self._parts:
            if not any(one.version == version for one in part.status().versions):
                raise VersionNotServed(f"version {version} is not served by every shard here")
        previous = [await part.activate(version) for part in self._parts]
        return previous[0]

    async def retire(self, version: str) -> None:
        for part in self._parts:
            await part.retire(version)


def _items(status: TierStatus, version: str) -> int:
    return next((one.items for one in status.versions if one.version == version), 0)
