"""What the serving path remembers: profiles, events, the catalogue and their log.

`memory.py` is the implementation that tests trust, `sqlite.py` the embedded one, `redis.py` the one
for several hosts. All pass the suites in `tests/contracts/`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shortlist.errors import InvalidField, ShortlistError
from shortlist.ids import key_of
from shortlist.live import Appended, CatalogItem, Changes, LiveEvent, StoredEvent
from shortlist.tiers import AttributeValue, History, Keys

__all__ = [
    "Impressions",
    "Profile",
    "ProfileStore",
    "ProfilesUnavailable",
    "Store",
    "StoreFull",
    "check_profile",
]


class ProfilesUnavailable(ShortlistError):
    """The profile store is missing, locked, or not readable."""

    status_name = "UNAVAILABLE"


def _no_keys() -> Keys:
    return np.empty(0, np.uint64)


def _no_times() -> npt.NDArray[np.int64]:
    return np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Impressions:
    """Items that pages showed to a user, oldest first; both columns have length i."""

    keys: Keys = field(default_factory=_no_keys)  # uint64 [i]
    times_ms: npt.NDArray[np.int64] = field(default_factory=_no_times)  # int64 [i]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What is stored of one user."""

    user_key: int  # uint64, key_of(user id)
    history: History  # the newest events only, oldest first
    seen: Keys = field(default_factory=_no_keys)  # uint64 [s], every item ever interacted with
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)  # by feature name
    # The newest impressions, oldest first, and how many events of each type there were.
    impressions: Impressions = Impressions()
    counters: Mapping[str, int] = field(default_factory=dict)


class StoreFull(ShortlistError):
    """The store has no room, or too much waits for it already; nothing was acknowledged."""

    status_name = "RESOURCE_EXHAUSTED"


class ProfileStore(Protocol):
    """Reads profiles by user id."""

    async def get(self, user_id: str) -> Profile | None:
        """The user's profile, or None for one that nobody has seen yet.

        Raises `ProfilesUnavailable`. Blocks the event loop for a few milliseconds at most.
        """
        ...

    async def close(self) -> None: ...


class Store(ProfileStore, Protocol):
    """Profiles, events and the catalogue, with one log of all changes.

    Every method may raise `ProfilesUnavailable`: the store cannot be reached or read. Methods that
    change something return when the change is durable; they may raise `StoreFull`, and then nothing
    has changed. All of one call is applied at once: a reader sees everything of it or nothing.
    """

    async def attributes_of(self, ids: Sequence[str]) -> list[Mapping[str, AttributeValue]]:
        """The attributes of the users' profiles, aligned with `ids`; of unknown users none."""
        ...

    async def append(self, events: Sequence[LiveEvent]) -> Appended:
        """Append events to the log and update the profiles of their users in the same step.

        A history is kept in the order of times, whatever order events arrive in, and bounded; so
        the same events give the same profile in any order. An event id that the log knows, or that
        is repeated within the call, changes nothing.
        """
        ...

    async def log_impressions(
        self, user_id: str, keys: Keys, times_ms: int, exposure: Mapping[str, object]
    ) -> None:
        """Remember what a page showed (`exposure`: request, versions, arm; JSON). Not awaited by
        the request; users who were forgotten are skipped.
        """
        ...

    async def upsert_items(self, items: Sequence[CatalogItem]) -> int:
        """Add or replace; returns the head of the log."""
        ...

    async def delete_items(self, ids: Sequence[str]) -> int:
        """Remove, and remember that they are removed, known or not; returns the head of the log."""
        ...

    async def get_items(self, ids: Sequence[str]) -> list[CatalogItem | None]:
        """Aligned with `ids`; None for those that are not there."""
        ...

    async def list_items(self, after_key: int, limit: int) -> list[CatalogItem]:
        """The next `limit` items whose keys are above `after_key`, by key; -1 begins."""
        ...

    async def forget_users(self, ids: Sequence[str]) -> int:
        """Remove all that is known of the users so that no byte of their ids is left in any file,
        and refuse later events of theirs; returns the head of the log.
        """
        ...

    async def is_forgotten(self, ids: Sequence[str]) -> list[bool]:
        """Which of the users were deleted; aligned with `ids`. Keeps no readable id."""
        ...

    async def count_forgotten(self) -> int:
        """How many users were deleted."""
        ...

    async def head(self) -> int:
        """The number of the newest change; 0 = none yet."""
        ...

    async def changes(self, after: int, limit: int = 10_000) -> Changes:
        """At most `limit` changes with numbers above `after`, items in their newest state only."""
        ...

    def events(self, after: int, upto: int) -> AsyncIterator[StoredEvent]:
        """All events with numbers above `after`, up to and with `upto`: for a training snapshot."""
        ...

    async def replace_base(
        self,
        profiles: Iterable[tuple[str, Profile]],
        items: Iterable[CatalogItem],
    ) -> None:
        """Put what an import has read beneath the live state, in place of an earlier import's.

        The log stays, events in it stay part of the profiles, items changed in it stay as changed,
        users forgotten stay forgotten. Both arguments may be generators; memory stays bounded.
        """
        ...

    async def compact(self, now_ms: int | None = None) -> int:
        """Drop events and pages that are older than the retention; returns how many. A store that
        is written to does so by itself now and then.

        Profiles stay as they are. The id of an event that has left the log is known no more.
        """
        ...


def check_profile(user_id: str, profile: Profile) -> None:
    """Raise `InvalidField` unless `profile` may be stored under `user_id`."""
    if profile.user_key != key_of(user_id):
        raise InvalidField("user_key", f"{profile.user_key} is not the key of user {user_id!r}")
    history = profile.history
    if not len(history.keys) == len(history.times_ms) == len(history.weights):
        raise InvalidField("history", f"columns of user {user_id!r} differ in length")
